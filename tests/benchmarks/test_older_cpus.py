"""The timing of older CPUs: each way runs in a process that sees fewer instructions."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import older_cpus
import pytest
import torch

from petune.backbone.base import Base
from petune.kernels import wide_products


@pytest.mark.parametrize("work", older_cpus.WORKS)
@pytest.mark.parametrize(("way", "least"), [("float32", wide_products.NEVER), ("bfloat16", wide_products.LEAST_ROWS)])
def test_a_way_works_in_its_precision(
    work: str,
    way: str,
    least: int,
    tmp_path: Path,
    tiny_base: Callable[..., Base],
    write_rows: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [{"text": f"it was {word}", "label": "positive"} for word in ("good", "fine", "bright", "warm")] * 20
    files = SimpleNamespace(train=write_rows(tmp_path / "train.jsonl", rows))
    asked: list[str] = []

    def load(name: str, *, dtype: str, device: str) -> Base:
        asked.append(dtype)
        assert (name, device) == ("demo", "cpu")
        return tiny_base(dtype=getattr(torch, dtype))

    monkeypatch.setattr(wide_products, "_least_rows", dict.fromkeys(wide_products.HALVES, wide_products.LEAST_ROWS))
    monkeypatch.setattr(older_cpus, "movie_reviews", lambda *_: files)
    monkeypatch.setattr(older_cpus.petune, "load_base", load)
    found = older_cpus.rate(work, way, torch.get_num_threads())
    assert asked == [way]
    assert found["tokens_per_second"] > 0
    assert found["least_rows"] == least


WORKS = ("training", "generation of 1 row")


def test_a_line_for_each_cpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ran: list[tuple[str, str, str]] = []

    def run(command: list[str], *, env: dict[str, str], **_: Any) -> subprocess.CompletedProcess[str]:
        at, limit = command.index("--only"), env["ONEDNN_MAX_CPU_ISA"]
        work, way = command[at + 1 : at + 3]
        ran.append((limit, work, way))
        answer = {"tokens_per_second": float(len(ran)), "least_rows": 16 if limit == "AVX2" else wide_products.NEVER}
        return subprocess.CompletedProcess(command, 0, stdout=f"a warning\n{json.dumps(answer)}\n")

    monkeypatch.setattr(subprocess, "run", run)
    assert older_cpus.main(["--cpus", "AVX2", "this one", "--works", *WORKS, "--repeats", "3"]) == 0
    assert [(work, limit) for limit, work, _ in ran[::9]] == [(w, c) for w in WORKS for c in ("AVX2", "DEFAULT")]
    assert [way for *_, way in ran[:6]] == list(older_cpus.WAYS) * 2, "in turn"
    lines = [
        line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith(("| AVX2", "| this"))
    ]
    assert [line[1:4] for line in lines[:2]] == [["4.0", "5.0", "6.0"], ["13.0", "14.0", "15.0"]]
    assert [line[1:4] for line in lines[2:]] == [["22", "23", "24"], ["31", "32", "33"]]
    assert [line[4] for line in lines] == ["float32 from 16 on |", "half precision |"] * 2
