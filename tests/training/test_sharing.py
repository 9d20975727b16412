"""What cannot train together is told before anything loads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petune.errors import ConfigError
from petune.training.run_many import train_many

Keys = Callable[..., dict[str, Any]]


def pair(
    tmp_path: Path, keys: Keys, second: dict[str, Any], first: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Two recipes on a base that does not exist."""
    own = {"a": first or {}, "b": second}
    nowhere = str(tmp_path / "nowhere")
    return [keys(**{"model": nowhere, "output_dir": str(tmp_path / name), **changes}) for name, changes in own.items()]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (
            {"model": "other"},
            r"model is .*nowhere for a and other for b: adapters that train together have one, because",
        ),
        ({"dtype": "float32"}, "dtype is auto for a and float32 for b"),
        ({"quantization": "8bit"}, "quantization is None for a and 8bit for b"),
        ({"device": "cpu"}, "device is auto for a and cpu for b"),
        ({"revision": "v2"}, "revision is None for a and v2 for b"),
        ({"task": "seq2seq_lm"}, "task is None for a and seq2seq_lm for b"),
        ({"gradient_checkpointing": True}, "gradient_checkpointing is False for a and True for b"),
        ({"new_tokens": ["<x>", "<y>"]}, r"new_tokens is \(\) for a and \(<x>, <y>\) for b"),
        ({"method": "full"}, r"b: full fine-tuning replaces weights of the base, .*; train it alone"),
        ({"method": "hard_prompts"}, r"b: .* trains nothing, so there is no pass to share; run it alone"),
        ({"report_to": ["wandb"]}, r"b: wandb follows one run a process, and here are 2; report to tensorboard"),
    ],
    ids=str,
)
def test_recipes_that_cannot_share_a_base(second: dict[str, Any], message: str, tmp_path: Path, keys: Keys) -> None:
    with pytest.raises(ConfigError, match=f"(?i){message}"):
        train_many(pair(tmp_path, keys, second))
    assert not (tmp_path / "a").exists()


def test_folders_are_each_ones_own(tmp_path: Path, keys: Keys) -> None:
    common = {"output_dir": str(tmp_path / "a")}
    with pytest.raises(ConfigError, match=r"x and y would both write to .*b; give each an output_dir"):
        train_many(keys(**common, adapters={n: {"output_dir": str(tmp_path / "b")} for n in ("x", "y")}))
    with pytest.raises(ConfigError, match=r"the recipe of all and x would both write to .*a; give each an output_dir"):
        train_many(keys(**common, adapters={"x": common}))


def test_heads_that_differ(tmp_path: Path, keys: Keys, write_rows: Callable[..., Path]) -> None:
    def recipe(labels: str, **changes: Any) -> dict[str, Any]:
        rows = [{"text": f"row {i}", "label": label} for i, label in enumerate(labels)]
        data = str(write_rows(tmp_path / f"{labels}.jsonl", rows))
        return {"data": data, "task": "sequence_classification", **changes}

    with pytest.raises(ConfigError, match=r"the list of classes is \(x, y\) for a and \(x, z\) for b: adapters that"):
        train_many(pair(tmp_path, keys, recipe("xz"), recipe("xy")))
    with pytest.raises(ConfigError, match=r"seed is 1 for a and 2 for b: .* a head that the base comes without starts"):
        train_many(pair(tmp_path, keys, recipe("xy", seed=2), recipe("xy", seed=1)))
