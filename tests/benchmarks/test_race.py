"""The race of every method: options, entries, verdicts, standings, the picture, and its quick edition."""

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from race import command, entries, environments, options, plot
from race.cards import most_operations
from race.contests import CONTESTS
from race.entries import Entry, judge, last_line
from race.kept import kept
from race.peers import PEERS, Peer
from race.processes import WorkerError
from race.settings import Settings
from race.standings import Standing, render, standings_of
from race.task import Task
from race.validation import Validation, mean_loss
from race.work import Row, Work
from race.workers import floor
from safetensors.torch import load_file

from petune import methods
from petune.adapted_model import AdaptedModel
from petune.adapter import create_adapter
from petune.backbone.base import Base, load_base
from petune.checkpoint.folder import save_adapter

OUTSIDER = Peer("nobody", "nobody_contest", ("nothing==1.0",), frozenset({"lora"}))


def settings(*arguments: str) -> Settings:
    return options.settings_of(options.parse(arguments))


def test_every_contest_is_of_a_method_and_every_peer_enters_one() -> None:
    assert len(CONTESTS) >= 10
    for contest in CONTESTS.values():
        methods.get(contest.method).configure(contest.options)
    assert all(peer.contests <= CONTESTS.keys() and peer.contests for peer in PEERS.values())
    assert all(contest.rival in PEERS for contest in CONTESTS.values())
    assert PEERS["trl"].packages == ("transformers", "peft", "trl", "accelerate", "datasets", "safetensors")


def test_sizes() -> None:
    assert settings("--threads", "2") == Settings(**options.SIZES, threads=2)
    assert settings("--quick", "--rows", "64").rows == 64
    big = settings("--device", "cuda", "--base", "llama-7b-shape", "--rows-per-step", "32")
    assert "unsloth" in options.parse(["--device", "cuda"]).peers
    assert options.parse([]).peers == ["peft", "trl", "adapterhub"]
    assert (big.device, big.base, big.rows_per_step) == ("cuda", "llama-7b-shape", 32)
    sizes = settings("--repeats", "7")
    assert CONTESTS["lora"].settings(sizes) == sizes
    cached = CONTESTS["llama_adapter_top"].settings(sizes)
    assert (cached.rows, cached.warm_up_steps) == (240, 15 + 3)  # one epoch, then the warm-up of the second


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "100"], "give a multiple of 16"),
        (["--repeats", "0"], "repeats: give whole numbers of 1 or more"),
        (["--to-loss", "0.3", "--data", "rows.jsonl"], "--to-loss needs held-out rows: give --test-data with --data"),
    ],
)
def test_options_that_make_no_race(arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        settings(*arguments)


def test_only_a_peer_that_runs_as_it_comes_shuffles_by_itself() -> None:
    assert [Entry(*names).grouped for names in (("petune",), ("peft", "default"), ("peft", "tuned"))] == [
        True,
        False,
        True,
    ]


def test_a_peer_that_nobody_knows_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options.parse(["--environment", "nobody=python"])
    assert "give PEER=PYTHON with a peer of peft, trl, adapterhub, unsloth" in capsys.readouterr().err


def test_environments_are_found_once_they_are_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETUNE_HOME", str(tmp_path))
    folder = environments.folder_of("nobody", OUTSIDER)
    assert environments.find_python("nobody", OUTSIDER) is None
    folder.mkdir(parents=True)
    assert environments.find_python("nobody", OUTSIDER) is None
    (folder / environments.COMPLETE).touch()
    assert environments.find_python("nobody", OUTSIDER) == folder / "bin" / "python"
    newer = Peer("nobody", "nobody_contest", ("nothing==1.1",), frozenset({"lora"}))
    assert environments.find_python("nobody", newer) is None


def test_preparing_tells_what_pip_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETUNE_HOME", str(tmp_path))
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> Any:
        commands.append(command)
        return type("Done", (), {"returncode": int("pip" in command), "stderr": "no such release"})

    monkeypatch.setattr(environments.subprocess, "run", run)
    with pytest.raises(environments.PreparationError, match=r"failed.*no such release"):
        environments.prepare("nobody", OUTSIDER, lambda _: None)
    assert commands[1][-1] == "nothing==1.0"
    assert commands[1][-2].startswith("torch==")
    assert environments.find_python("nobody", OUTSIDER) is None


def test_why_an_entry_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    python = {"petune": None, "peft": Path("python"), "trl": None, "adapterhub": Path("python"), "unsloth": None}
    monkeypatch.setattr(command.shutil, "which", lambda _: None)
    assert command.why_absent("lora", Entry("petune"), python) is None
    assert command.why_absent("lora", Entry("peft"), python) is None
    assert command.why_absent("lora", Entry("peft", "compiled"), python) == command.NO_COMPILER
    assert command.why_absent("lora", Entry("petune", "compiled"), python) == command.NO_COMPILER
    assert command.why_absent("llama_adapter_top", Entry("petune", "compiled"), python) == command.CACHED
    assert command.why_absent("lora", Entry("trl"), python) == command.NOT_INSTALLED
    assert command.why_absent("lora", Entry("adapterhub"), python) == "does not have this method"
    assert command.why_absent("lora", Entry("unsloth"), python, "cpu") == command.NO_CARD
    assert command.why_absent("lora", Entry("unsloth"), python, "cuda") == command.NOT_INSTALLED


REPORT = {"losses": [2.0, 1.5], "grad_norms": [0.3, 0.2], "tokens": [50, 60]}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"tokens": [50, 61]}, "trains on other tokens"),
        ({"losses": [2.1, 1.5]}, "its first loss is off by 0.099"),
        ({"losses": [float("nan"), 1.5]}, "its first loss is off by nan"),
        ({"losses": [2.0, 1.6]}, "its losses leave petune's by 0.1"),
        ({"grad_norms": [0.3, 0.0]}, "has a gradient of zero"),
    ],
)
def test_verdicts(changes: dict[str, Any], reason: str | None) -> None:
    verdict = judge("peft default", {**REPORT, **changes}, 2.001, [2.0, 1.5], [50, 60])
    assert verdict.reason == reason
    assert verdict.passed is (reason is None)


def test_what_a_failed_process_said_last() -> None:
    assert last_line(WorkerError("Traceback\n  File x\nValueError: no such thing\n")) == "ValueError: no such thing"


def timing(entry: str, rate: float, above: float = 100.0) -> dict[str, Any]:
    return {"entry": entry, "repeat": 0, "tokens_per_second": rate, "peak": 900.0, "above": above}


def found(*timings: dict[str, Any], reasons: dict[str, str] | None = None) -> dict[str, Any]:
    return {
        "title": "LoRA",
        "floor": {"tokens_per_second": 1000.0},
        "entries": ["petune", "peft default", "peft tuned", "trl default", "adapterhub default"],
        "absent": {"trl default": "not installed", "adapterhub default": "does not have this method"},
        "timings": list(timings),
        "verdicts": {key: {"reason": reason} for key, reason in (reasons or {}).items()},
        "seconds_to_loss": {"petune": 12.0},
    }


def by_entry(rows: list[Standing]) -> dict[str, Standing]:
    return {row.entry: row for row in rows}


def test_every_entry_has_a_line_and_bars_are_judged() -> None:
    measured = found(timing("petune", 500, 40), timing("peft default", 150), timing("peft tuned", 400))
    rows = by_entry(standings_of("lora", measured, judged=True))
    assert len(rows) == 5
    assert rows["petune"].of_floor == 0.5
    assert rows["petune"].met is True  # 40 % of the products are asked for
    assert rows["petune"].seconds_to_loss == 12
    assert rows["HF PEFT + Trainer, default"].met is True  # 3.3 times, with 0.4 of the memory
    assert rows["HF PEFT + Trainer, tuned"].met is False  # 1.25 times, 2 are asked for
    assert rows["TRL SFTTrainer, default"].note == "not installed"
    assert all(row.met is None for row in standings_of("lora", measured, judged=False))
    text = render({"contests": {"lora": measured}}, list(rows.values()))
    assert "LoRA; the products alone: 1000 tokens/s" in text
    assert "x 1.25" in text
    assert text.count("MISSED") == 1
    measured["floor"]["precision"] = "float32"
    assert "the products alone, in float32: 1000" in render({"contests": {"lora": measured}}, list(rows.values()))
    assert "does not have this method" in text


def test_memory_is_part_of_the_bar() -> None:
    rows = by_entry(standings_of("lora", found(timing("petune", 500, 60), timing("peft default", 100)), judged=True))
    assert rows["HF PEFT + Trainer, default"].met is False


def test_petune_compiled_is_an_entry_with_a_bar_of_its_own() -> None:
    assert [Entry("petune", "compiled").name, Entry("petune", "compiled").title] == [
        "petune compiled",
        "petune, compiled",
    ]
    measured = {
        **found(timing("petune", 500), timing("petune compiled", 540)),
        "entries": ["petune", "petune compiled"],
    }
    rows = by_entry(standings_of("lora", measured, judged=True))
    assert rows["petune"].met is True  # 40 % of the products are asked for
    assert rows["petune, compiled"].met is False  # 55 %
    assert rows["petune, compiled"].bar == "55% of the products"


def test_compiled_blocks_are_held_to_the_bar_and_plain_ones_to_two_thirds_of_it() -> None:
    def row(plain: float, compiled: float) -> Standing:
        timings = (timing("petune", plain), timing("petune compiled", compiled), timing("peft tuned", 200))
        measured = {**found(*timings), "entries": ["petune", "petune compiled", "peft tuned"]}
        return by_entry(standings_of("lora", measured, judged=True))["HF PEFT + Trainer, tuned"]

    held = row(280, 410)
    assert held.bar == "x 2 compiled, x 1.33"
    assert held.met is True
    assert held.compiled_ratio is not None
    assert held.compiled_ratio.median == pytest.approx(2.05)
    assert row(260, 410).met is False  # 1.3 times
    assert row(280, 390).met is False  # 1.95 times


def test_nobody_is_held_against_an_entry_that_computes_something_else() -> None:
    measured = found(
        timing("petune", 500), timing("peft default", 400), reasons={"peft default": "trains on other tokens"}
    )
    row = by_entry(standings_of("lora", measured, judged=True))["HF PEFT + Trainer, default"]
    assert row.met is None
    assert row.note == "trains on other tokens"


def test_a_card_has_bars_and_a_column_of_its_own() -> None:
    measured = found(timing("petune", 500, 90), timing("peft default", 450), timing("peft tuned", 400))
    floor = {"tokens_per_second": 1000.0, "operations_per_token": 4e11, "card": "NVIDIA H100 80GB HBM3"}
    rows = by_entry(standings_of("lora", {**measured, "floor": floor}, judged=True))
    assert (rows["petune"].bar, rows["petune"].met) == ("", None)
    assert rows["petune"].flop_use == pytest.approx(500 * 4e11 / 989e12)
    assert rows["HF PEFT + Trainer, default"].bar == ""
    assert (rows["HF PEFT + Trainer, tuned"].bar, rows["HF PEFT + Trainer, tuned"].met) == ("x 1.1", True)
    assert "20%" in rows["petune"].cells()
    assert CONTESTS["full"].bars_on("NVIDIA H200").tuned == 2
    unknown = standings_of("lora", {**measured, "floor": {**floor, "card": "some card"}}, judged=True)
    assert by_entry(unknown)["petune"].flop_use is None
    assert most_operations(None) is None
    assert most_operations("NVIDIA H100 PCIe") == 756e12


def test_the_exit_code(tmp_path: Path) -> None:
    good, bad = Standing("lora", "a", met=True), Standing("lora", "b", met=False)

    def results(passed: bool) -> dict[str, Any]:
        return {"contests": {"lora": {"verdicts": {"petune": {"passed": passed}}}}}

    assert not command.missed(results(True), [good])
    assert command.missed(results(True), [good, bad])
    assert command.missed(results(False), [good])


def test_what_the_file_holds_is_not_raced_again(tmp_path: Path) -> None:
    file, race = tmp_path / "race.json", {"settings": {"rows": 16, "peers": ("default",)}, "to_loss": None}
    assert kept(file, "contests", race) == {}
    file.write_text(json.dumps({**race, "contests": {"lora": {"date": "today"}}}))
    assert kept(file, "contests", race) == {"lora": {"date": "today"}}
    with pytest.raises(SystemExit, match="holds a run with other to_loss; choose another --output, or remove it"):
        kept(file, "contests", {**race, "to_loss": 0.4})


def test_the_picture(tmp_path: Path) -> None:
    measured = found(timing("petune", 500), timing("peft default", 400))
    results = {"contests": {"lora": measured}, "machine": {"cpu": "a processor"}}
    plot.draw(tmp_path / "race.png", results, standings_of("lora", measured, judged=True))
    assert (tmp_path / "race.png").read_bytes().startswith(b"\x89PNG")


def test_products_of_the_floor() -> None:
    weights = [torch.ones(6, 4, dtype=torch.bfloat16), torch.ones(4, 6, dtype=torch.bfloat16)]
    shapes = {
        part: [tuple(product().shape) for product in getattr(floor, part)(weights, 3)]
        for part in ("forward", "backward", "gradients")
    }
    assert shapes == {
        "forward": [(3, 6), (3, 4)],
        "backward": [(3, 4), (3, 6)],
        "gradients": [(6, 4), (4, 6)],
    }
    assert floor.seconds_of(list(floor.forward(weights, 3))) > 0
    assert sum(map(floor.operations_of, floor.forward(weights, 3))) == 2 * (2 * 3 * 4 * 6)


@pytest.mark.parametrize(
    ("device", "dtype", "expected"),
    [
        ("cpu", "bfloat16", [torch.bfloat16, torch.float32]),
        ("cpu", "float32", [torch.float32]),
        ("cuda", "bfloat16", [torch.bfloat16]),
    ],
)
def test_precisions_of_the_floor(device: str, dtype: str, expected: list[torch.dtype]) -> None:
    assert floor.precisions(Settings(device=device, dtype=dtype)) == expected


def test_sizes_of_a_step(tmp_path: Path) -> None:
    work = Work(tmp_path)
    work.write_rows([Row([5, 6, 7], [-100, 6, 7]), Row([8, 9], [8, 9])])
    work.write_plan([[1], [0, 1]])
    assert floor.sizes_of_a_step(work) == (round(3.5), 2)


class Model(torch.nn.Module):
    """Predicts token 1, the surer the more tokens it has seen; one virtual token comes first."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        logits = torch.zeros(*input_ids.shape, 3)
        logits[..., 1] = attention_mask.cumsum(1).float()
        logits = torch.cat([torch.full((len(logits), 1, 3), 7.0), logits], 1)
        return type("Output", (), {"logits": logits})


def test_held_out_loss_until_it_is_low_enough() -> None:
    rows = [Row([1, 1, 1], [-100, -100, 1]), Row([2, 1], [-100, 1])]
    model = Model().train()
    expected = [torch.nn.functional.cross_entropy(torch.tensor([0.0, n, 0.0]), torch.tensor(1)) for n in (2.0, 1.0)]
    assert mean_loss(model, rows, 0) == pytest.approx(float(sum(expected)) / 2)
    assert model.training
    validation = Validation(rows, target=0.3, every=2, pad_token_id=0)
    validation.begin()
    assert not validation.reached(model, 1)
    assert not validation.reached(model, 2)
    assert validation.report()["seconds"] is None
    easier = Validation(rows, target=0.5, every=2, pad_token_id=0)
    easier.begin()
    assert easier.reached(model, 4)
    assert easier.report()["seconds"] >= 0


def test_older_releases_find_the_base_of_the_rotation(tmp_path: Path) -> None:
    from race.workers.prepare import name_rotation_twice

    config = tmp_path / "config.json"
    for settings in ({"rope_parameters": {"rope_theta": 1e5, "rope_type": "default"}}, {"hidden_size": 8}):
        config.write_text(json.dumps(settings))
        name_rotation_twice(config)
        theta = {"rope_theta": 1e5} if "rope_parameters" in settings else {}
        assert json.loads(config.read_text()) == {**settings, **theta}


def test_a_base_of_random_weights(
    tmp_path: Path, tiny_base: Callable[..., Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    from race.workers import prepare

    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    monkeypatch.setattr(prepare, "SHAPES", {"small": small})
    monkeypatch.setattr(prepare, "load_base", lambda *_, **__: tiny_base(dtype=torch.bfloat16))
    prepare.write_model(tmp_path / "random", Settings(base="small"))
    made = load_base(tmp_path / "random", dtype="bfloat16", device="cpu")
    assert made.model.config.hidden_size == 32
    assert made.model.dtype == torch.bfloat16
    assert made.model.get_input_embeddings().weight.shape[0] == tiny_base().model.config.vocab_size
    prepare.write_model(tmp_path / "demo", Settings())
    demo = load_base(tmp_path / "demo", dtype="bfloat16", device="cpu").model
    assert torch.equal(demo.lm_head.weight, tiny_base(dtype=torch.bfloat16).model.lm_head.weight)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # asked by PEFT
def test_unsloth_is_given_what_everybody_starts_from(
    tmp_path: Path, tiny_base: Callable[..., Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    peft = pytest.importorskip("peft")
    base = tiny_base()
    adapter = create_adapter(base, "lora", r=3, lora_alpha=6, target_modules=("q_proj", "v_proj"))
    work = Work(tmp_path)
    work.write_settings(Settings())
    work.write_rows([Row([5, 6, 7], [-100, 6, 7])])
    save_adapter(AdaptedModel(base, [adapter]), work.start)
    asked: list[dict[str, Any]] = []

    class FastLanguageModel:
        @staticmethod
        def from_pretrained(**options: Any) -> tuple[Any, None]:
            asked.append(options)
            return tiny_base().model, None

        @staticmethod
        def get_peft_model(model: Any, **options: Any) -> Any:
            asked.append(options)
            own = ("r", "lora_alpha", "lora_dropout", "bias", "target_modules")
            return peft.get_peft_model(model, peft.LoraConfig(**{name: options[name] for name in own}))

    monkeypatch.setitem(sys.modules, "unsloth", SimpleNamespace(FastLanguageModel=FastLanguageModel))
    worker = importlib.import_module("race.workers.unsloth_contest")
    task = Task(work, tmp_path / "report", {"contest": "lora", "manner": "tuned", "dtype": "bfloat16"})
    found = peft.get_peft_model_state_dict(worker.load_model(task))
    start = load_file(work.start / "adapter_model.safetensors")
    assert found.keys() == start.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in start.items())
    assert (asked[0]["dtype"], asked[0]["load_in_4bit"]) == (torch.bfloat16, False)
    assert asked[1]["use_gradient_checkpointing"] is False


def test_first_steps_are_compared_at_the_share_of_the_rate_that_a_contest_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(tmp_path)
    work.write_settings(Settings(learning_rate=0.5))
    rate = work.settings.learning_rate
    assert Task(work, tmp_path / "report", {"share_of_rate": 0.1}).settings.learning_rate == pytest.approx(rate / 10)
    assert Task(work, tmp_path / "report", {}).settings == work.settings
    asked: list[dict[str, Any]] = []

    def run_worker(work: Work, worker: str, threads: int, **request: Any) -> dict[str, Any]:
        asked.append(request)
        return {"loss": 1.0, "losses": [1.0], "tokens": [], "grad_norms": [1.0]}

    monkeypatch.setattr(entries, "run_worker", run_worker)
    monkeypatch.setattr(Work, "tokens_of_steps", lambda self: [])
    found = entries.verdicts(work, "prompt_tuning", [Entry("petune")], {"petune": None})
    assert found["petune"].passed
    assert asked[-1]["share_of_rate"] == CONTESTS["prompt_tuning"].compared_at < 1
    assert CONTESTS["lora"].compared_at == 1


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    from race.workers.prepare import write_first

    (tmp_path / "a").write_text("1\n2\n3\n")
    write_first(tmp_path / "a", tmp_path / "b", 2)
    assert (tmp_path / "b").read_text() == "1\n2\n"
    with pytest.raises(ValueError, match="has 3 rows, the race needs 4"):
        write_first(tmp_path / "a", tmp_path / "b", 4)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_quick_edition_runs_without_peers(tmp_path: Path) -> None:
    output = tmp_path / "race.json"
    names = ["lora", "llama_adapter_top"]
    assert command.main(["--quick", "--methods", *names, "--peers", "--output", str(output)]) == 0
    results = json.loads(output.read_text(encoding="utf-8"))
    assert [row["entry"] for row in results["rows"]] == ["petune", "petune"]
    assert all(results["contests"][name]["verdicts"]["petune"]["passed"] for name in names)
    assert results["contests"]["llama_adapter_top"]["floor"]["lowest_block"] == 20
    assert output.with_suffix(".png").is_file()
