import json
import os
import shlex
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import petune
from petune.backbone.base import Base, load_base
from petune.cli import main as command_line
from petune.comparison import bench, measure, shared_pass, unit_runner
from petune.comparison.folder import Folder
from petune.comparison.job import Job
from petune.comparison.plan import Track
from petune.comparison.record import Comparison, Trial
from petune.comparison.run import compare
from petune.comparison.search import best
from petune.comparison.split import Parts
from petune.comparison.watching import Progress, Unwatched
from petune.errors import ConfigError, DataError, Interrupted, MetricError, OutputFolderError
from petune.training import checkpoints

Keys = Callable[..., dict[str, Any]]


class Follower(Unwatched):
    """Notes which trials ran and which were there already; may stop everything after some."""

    def __init__(self, stop_after: int | None = None, signal_at: int | None = None) -> None:
        self.ran: list[str] = []
        self.reused: list[str] = []
        self.foreseen = (0, 0)
        self._stop_after = stop_after
        self._signal_at = signal_at

    def planned(self, tracks: Sequence[Track], progress: Progress) -> None:
        self.foreseen = progress.ended, progress.trials

    def stepped(self, job: Job, step: int, total: int) -> None:
        if step == self._signal_at:
            self._signal_at = None
            os.kill(os.getpid(), signal.SIGINT)

    def ended(self, job: Job, trial: Trial, *, reused: bool) -> None:
        (self.reused if reused else self.ran).append(trial.id)
        if len(self.ran) == self._stop_after:
            raise KeyboardInterrupt


def finals(comparison: Comparison, method: str = "lora") -> list[Trial]:
    return [trial for trial in comparison.trials if trial.stage != "search" and trial.method == method]


def test_all_of_it(compare_keys: Keys, tmp_path: Path) -> None:
    keys = compare_keys(
        methods=["lora", "bitfit"], baselines=True, rate_factors=[1, 10], seeds=[1, 2], budget=4, budget_unit="epochs",
        evaluations=2, forgetting=True, metrics=["f1"],
    )  # fmt: skip
    found = petune.compare(keys)
    assert [(t.method, t.stage, t.status) for t in found.trials] == [
        *[("lora", "search", "done")] * 2, *[("lora", "final", "done")] * 2,
        ("bitfit", "final", "refused"),
        *[("full", "search", "done")] * 2, *[("full", "final", "done")] * 2,
        ("hard_prompts", "floor", "done"),
    ]  # fmt: skip
    for trial in found.trials:
        assert (trial.reason is None) == (trial.status == "done")
        _check_figures(trial, tmp_path / "out")
    (chosen,) = {json.dumps(trial.settings) for trial in finals(found)}
    searched = [trial for trial in found.trials if trial.stage == "search" and trial.method == "lora"]
    assert json.loads(chosen) == best(searched, 1)[0]
    assert found.search_cost.trials == 4
    assert found.search_cost.tokens == sum(t.curve[-1].tokens for t in found.trials if t.stage == "search")
    assert found.finished is not None
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"comparison.json", "recipe.yaml", "report.json"}
    # Full fine-tuning and LoRA have seen the same rows, as many tokens a step.
    lora, full = finals(found, "lora")[0], finals(found, "full")[0]
    assert [(p.step, p.tokens) for p in lora.curve] == [(p.step, p.tokens) for p in full.curve]


def _check_figures(trial: Trial, folder: Path) -> None:
    if trial.status != "done":
        assert trial.test == trial.development == {}
        return
    assert set(trial.development) == {"loss", "accuracy"}, "what decides; the others are of the test rows"
    assert trial.can_generate
    trains = trial.stage != "floor"
    assert bool(trial.curve) == (trial.train_loss is not None) == bool(trial.seconds) == trains
    assert (trial.tokens_per_second is not None) == (trains and trial.trials_in_pass == 1)
    assert (trial.trainable_parameters == 0) == (not trains)
    assert (trial.best_eval_loss is not None) == trains
    if trial.stage == "search":
        assert (trial.test, trial.scores, trial.adapter, trial.forgetting) == ({}, [], None, None)
        assert not (folder / "trials" / trial.id / "adapter").exists()
        return
    assert set(trial.test) == {"loss", "accuracy", "f1"}
    assert len(trial.scores) == 5
    assert sum(trial.scores) / 5 == pytest.approx(trial.test["accuracy"])
    assert len(trial.examples) == 4
    assert trial.generation_latency_ratio is not None
    assert trial.forgetting is not None
    assert (trial.forgetting.neutral_loss_before == trial.forgetting.neutral_loss_after) == (not trains)
    assert trial.adapter is not None
    adapter = folder / trial.adapter
    assert not list(adapter.glob("checkpoint-*"))
    assert trial.bytes_stored == sum(p.stat().st_size for p in adapter.glob("*.safetensors")) * trains
    assert petune.load(adapter).active == ("default",)


def test_the_command_repeats_the_trial(
    compare_keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = {"method": "lora", "settings": {"r": 2, "lora_dropout": 0.3}}
    (trial,) = finals(compare(compare_keys(methods=[entry], seeds=[7])))
    monkeypatch.chdir(tmp_path)
    assert command_line.run(shlex.split(trial.command)[1:]) == 0, capsys.readouterr().err
    one, other = (
        load_file(folder / "adapter_model.safetensors")
        for folder in (tmp_path / "out" / str(trial.adapter), tmp_path / "outputs" / trial.id)
    )
    assert one.keys() == other.keys()
    assert all(one[name].equal(other[name]) for name in one)


def test_a_random_head_is_the_seed_s_own(
    compare_keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = finals(compare(compare_keys(task="sequence_classification", seeds=[1, 2])))
    assert {trial.status for trial in trials} == {"done"}
    monkeypatch.chdir(tmp_path)
    assert command_line.run(shlex.split(trials[1].command)[1:]) == 0, capsys.readouterr().err
    one, other = (
        load_file(folder / "adapter_model.safetensors")
        for folder in (tmp_path / "out" / str(trials[1].adapter), tmp_path / "outputs" / trials[1].id)
    )
    assert all(one[name].equal(other[name]) for name in one)


def test_nothing_is_run_twice(compare_keys: Keys) -> None:
    first = compare(compare_keys(rate_factors=[1, 3]))
    again = Follower()
    assert compare(compare_keys(rate_factors=[1, 3]), resume=True, watcher=again).trials == first.trials
    assert again.ran == []
    more = Follower()
    found = compare(compare_keys(rate_factors=[1, 3], seeds=[42, 43]), resume=True, watcher=more)
    assert len(more.ran) == 1
    assert [trial.seed for trial in finals(found)] == [42, 43]
    more = Follower()
    found = compare(compare_keys(rate_factors=[1], seeds=[42], methods=["lora", "ia3"]), resume=True, watcher=more)
    assert {trial.method for trial in found.trials if trial.id in more.ran} >= {"ia3"}


def test_what_else_matters_is_searched_and_told(compare_keys: Keys, tmp_path: Path) -> None:
    keys = compare_keys(methods=["lora", "prompt_tuning"], rate_factors=[1, 3], search_settings=True)
    found = compare(keys)
    of_lora = [trial for trial in found.trials if trial.method == "lora"]
    assert [(trial.stage, trial.rung, trial.settings.get("r")) for trial in of_lora[:-1]] == [
        ("search", 0, None), ("search", 0, None), ("search", 1, 2), ("search", 1, 32),
    ]  # fmt: skip
    assert of_lora[-1].stage == "final"
    assert {trial.status for trial in found.trials} == {"done"}
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "num\\_virtual\\_tokens 50" in report
    again = Follower()
    assert compare(keys, resume=True, watcher=again).trials == found.trials
    assert again.ran == []


def test_it_may_be_stopped_between_trials(compare_keys: Keys) -> None:
    keys = compare_keys(seeds=[1, 2, 3])
    with pytest.raises(Interrupted, match=r"stopped after 2 of 3 trials, .* petune compare --resume --output-dir") as e:
        compare(keys, watcher=Follower(stop_after=2))
    assert e.value.exit_code == 130
    later = Follower()
    compare(keys, resume=True, watcher=later)
    assert (len(later.reused), len(later.ran)) == (2, 1)
    assert later.foreseen == (2, 3), "what is done is known before the first trial"


def test_what_had_ended_before_stays_in_the_report_of_a_call_that_is_stopped(
    compare_keys: Keys, tmp_path: Path
) -> None:
    keys = compare_keys(methods=["lora", "ia3"], seeds=[1])
    compare(keys)
    with pytest.raises(Interrupted, match="stopped after 3 of 4 trials"):
        compare({**keys, "seeds": [1, 2]}, resume=True, watcher=Follower(stop_after=1))
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert {(t["method"], t["seed"]) for t in report["trials"]} == {("lora", 1), ("lora", 2), ("ia3", 1)}


def test_a_stop_before_the_rows_are_written_can_be_gone_on_with(
    compare_keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, write = compare_keys(), Parts.write

    def failing(parts: Parts, folder: Path) -> Any:
        if folder.name == "data":
            raise OutputFolderError("the disk is full")
        return write(parts, folder)

    monkeypatch.setattr(Parts, "write", failing)
    with pytest.raises(OutputFolderError, match="the disk is full"):
        compare(keys)
    monkeypatch.undo()
    assert [trial.status for trial in compare(keys, resume=True).trials] == ["done"]


def test_the_folder_leads_to_where_its_commands_hold(
    compare_keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    comparison = compare(compare_keys(data="rows.jsonl", output_dir="results/small", methods=["hard_prompts"]))
    assert comparison.started_from is not None
    monkeypatch.chdir(tmp_path / "results" / "small")
    monkeypatch.chdir(comparison.started_from)
    assert Path.cwd() == tmp_path
    assert Path(shlex.split(comparison.command)[2]).is_file()


def test_rows_that_training_leaves_out_are_left_out_of_the_measurement(
    compare_keys: Keys, tmp_path: Path, write_rows: Callable[..., Path]
) -> None:
    rows = [{"text": f"row {i}", "label": "ab"[i % 2]} for i in range(8)]
    test = write_rows(tmp_path / "test.jsonl", [{"text": "long " * 40, "label": "a"}, *rows[:3]])
    data = write_rows(tmp_path / "train.jsonl", [{"text": f"other {i}", "label": "ab"[i % 2]} for i in range(12)])
    keys = compare_keys(data=str(data), test_data=str(test), overlong="drop", max_length=60, examples=4)
    for metric in ("accuracy", "loss"):
        (trial,) = compare({**keys, "metric": metric, "output_dir": str(tmp_path / metric)}).trials
        assert trial.status == "done", trial.reason
        assert len(trial.scores) == 3
        assert [(e.row, e.prompt.split()[0], e.reference) for e in trial.examples] == [
            (2, "row", "a"),
            (3, "row", "b"),
            (4, "row", "a"),
        ]


def test_all_right_answers_to_a_question_are_kept(
    compare_keys: Keys, tiny_base: Callable[..., Base], tmp_path: Path, write_rows: Callable[..., Path]
) -> None:
    base = tiny_base("bert", num_hidden_layers=1)
    base.model.save_pretrained(tmp_path / "bert")
    base.tokenizer.save_pretrained(tmp_path / "bert")
    answers = {"text": ["big", "a big one"], "answer_start": [8, 6]}
    rows = [{"question": f"which {i}?", "context": "It is a big one", "answers": answers} for i in range(12)]
    data = str(write_rows(tmp_path / "questions.jsonl", rows))
    keys = compare_keys(data=data, models=[str(tmp_path / "bert")], methods=["hard_prompts"], examples=1)
    (trial,) = compare(keys).trials
    assert [(e.reference, e.other_references) for e in trial.examples] == [("big", ["a big one"])], trial.reason


def test_a_metric_goes_by_the_name_of_its_file(compare_keys: Keys, tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text("def metric(predictions, references):\n    return len(predictions)\n")
    (trial,) = compare(compare_keys(metric=f"{tmp_path}/score.py:metric")).trials
    assert trial.metric == "score"
    assert trial.quality == 5


@pytest.mark.parametrize("factors", [[1], [1, 3]], ids=["alone", "shared pass"])
def test_a_metric_without_the_value_that_decides_is_told_at_once(
    factors: list[float], compare_keys: Keys, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(
        "def score(predictions, references):\n    return {'mae': 1.0, 'rmse': 2.0}\n", encoding="utf-8"
    )
    follower = Follower()
    message = r"'score' decides, and .*own\.py:score does not return it; measured are loss, mae, rmse: .* key 'score'"
    keys = compare_keys(metric=f"{tmp_path}/own.py:score", methods=["lora", "ia3"], rate_factors=factors)
    with pytest.raises(MetricError, match=message):
        compare(keys, watcher=follower)
    assert follower.ran == []


def test_a_metric_may_be_mended_before_anything_was_measured_by_it(compare_keys: Keys, tmp_path: Path) -> None:
    metric = tmp_path / "own.py"
    metric.write_text("def score(predictions, references):\n    return {'mae': 1.0, 'rmse': 2.0}\n", encoding="utf-8")
    keys = compare_keys(metric=f"{metric}:score")
    with pytest.raises(MetricError, match="does not return it"):
        compare(keys)
    metric.write_text("def score(predictions, references):\n    return 1.0\n", encoding="utf-8")
    assert {trial.status for trial in compare(keys, resume=True).trials} == {"done"}


def test_a_trial_that_was_stopped_goes_on(compare_keys: Keys, tmp_path: Path) -> None:
    keys = compare_keys(budget=6, evaluations=3)
    with pytest.raises(Interrupted, match="stopped after 0 of 1 trials"):
        compare(keys, watcher=Follower(signal_at=3))
    (folder,) = (tmp_path / "out" / "trials").iterdir()
    assert (folder / "adapter" / "checkpoint-3").is_dir()
    (resumed,) = compare(keys, resume=True).trials
    (whole,) = compare({**keys, "output_dir": str(tmp_path / "whole")}).trials
    assert resumed.id == whole.id
    for field in ("development", "test", "scores", "train_loss", "best_step"):
        assert getattr(resumed, field) == getattr(whole, field), field
    assert [(p.step, p.tokens, p.train_loss, p.eval_loss) for p in resumed.curve] == [
        (p.step, p.tokens, p.train_loss, p.eval_loss) for p in whole.curve
    ]


@pytest.mark.parametrize(("factors", "steps"), [([1], [8, 16]), ([1, 3], [5, 5, 8, 16])], ids=["alone", "shared pass"])
def test_checkpoints_are_those_of_the_evaluations(
    factors: list[float], steps: list[int], compare_keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, save = [], checkpoints.save

    def noted(output: Path, step: int, checkpoint: checkpoints.Checkpoint) -> Path:
        written.append(step)
        return save(output, step, checkpoint)

    monkeypatch.setattr("petune.comparison.pace.save_seconds", lambda *_: 0.0)  # which writes one too
    monkeypatch.setattr(checkpoints, "save", noted)
    (*_, final) = compare(compare_keys(budget=16, evaluations=2, rate_factors=factors)).trials
    assert (final.status, final.curve[-1].step, written) == ("done", 16, steps)


def test_a_failed_trial_is_kept_and_the_rest_goes_on(compare_keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    train = measure.train

    def failing(recipe: Any, **options: Any) -> Any:
        if recipe.run.method == "lora" and recipe.run.seed == 1:
            raise MemoryError
        return train(recipe, **options)

    monkeypatch.setattr(measure, "train", failing)
    found = compare(compare_keys(seeds=[1, 2], methods=["lora", "ia3"]))
    assert [(t.method, t.seed, t.status) for t in found.trials] == [
        ("lora", 1, "out_of_memory"), ("lora", 2, "done"), ("ia3", 1, "done"), ("ia3", 2, "done"),
    ]  # fmt: skip
    assert found.finished is not None
    monkeypatch.undo()
    keys = compare_keys(seeds=[1, 2], methods=["lora", "ia3"])
    assert compare(keys, resume=True).trials == found.trials
    retried = Follower()
    assert {t.status for t in compare(keys, resume=True, retry=True, watcher=retried).trials} == {"done"}
    assert len(retried.ran) == 1


def test_a_search_in_which_all_fail(compare_keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(unit_runner, "perform", failing)
    monkeypatch.setattr(shared_pass, "train_many", failing)
    found = compare(compare_keys(rate_factors=[1, 3], seeds=[1, 2]))
    assert [(t.stage, t.status) for t in found.trials] == [("search", "failed")] * 2 + [("final", "failed")]
    assert found.trials[-1].reason == "no trial of the search ended well; the first: RuntimeError: broken"


def test_a_search_whose_metric_is_never_a_number(compare_keys: Keys, tmp_path: Path) -> None:
    metric = tmp_path / "own.py"
    metric.write_text("def corr(predictions, references):\n    return float('nan')\n", encoding="utf-8")
    found = compare(compare_keys(metric=f"{metric}:corr", rate_factors=[1, 3]))
    assert [trial.status for trial in found.trials] == ["done", "done", "failed"]
    assert str(found.trials[-1].reason).startswith("the corr of the development rows is not a number in any trial")


def test_new_tokens_of_one_method_are_not_there_for_the_next(compare_keys: Keys) -> None:
    entries = [{"method": "lora", "settings": {"new_tokens": ["<row>"]}}, "lora"]
    found = compare(compare_keys(methods=entries))
    assert [trial.status for trial in found.trials] == ["done", "done"]
    alone = compare(compare_keys(methods=["lora"]), overwrite=True)
    assert found.trials[1].scores == alone.trials[0].scores
    assert found.trials[1].development == alone.trials[0].development


def test_a_base_with_new_tokens_stays_loaded_for_trials_with_the_same(
    compare_keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    def loading(name: str, **keys: Any) -> Base:
        loaded.append(name)
        return load_base(name, **keys)

    monkeypatch.setattr(bench, "load_base", loading)
    tokens = {"new_tokens": ["<row>", "<line>"]}
    entries = [{"method": "full", "settings": tokens}, {"method": "lora", "settings": tokens}]
    found = compare(compare_keys(methods=["ia3", *entries, "prompt_tuning"]))
    assert [trial.status for trial in found.trials] == ["done"] * len(found.trials)
    assert len(loaded) == 2  # without the tokens again for prompt tuning
    alone = compare(compare_keys(methods=entries[1:]), overwrite=True)
    (lora,) = (trial for trial in found.trials if trial.method == "lora")
    assert lora.scores == alone.trials[0].scores
    assert lora.development == alone.trials[0].development


def test_a_budget_of_seconds(compare_keys: Keys) -> None:
    (trial,) = compare(compare_keys(budget=0.5, budget_unit="seconds", keep_adapters=False)).trials
    assert trial.status == "done", trial.reason
    assert trial.seconds is not None
    assert 0.05 < trial.seconds < 5  # the machine of a test may be busy
    assert f"--max-steps {trial.curve[-1].step}" in trial.command
    assert trial.adapter is None
    (trial,) = compare(compare_keys(budget=1e-6, budget_unit="seconds"), overwrite=True).trials
    assert trial.status == "refused"
    assert "a budget of 1e-06 seconds is too small for one step: lora trains on" in str(trial.reason)


def test_a_loss_decides(compare_keys: Keys, tmp_path: Path, write_rows: Callable[..., Path]) -> None:
    data = write_rows(tmp_path / "texts.jsonl", [{"prompt": f"text {i}", "completion": f" {i * i}"} for i in range(24)])
    (trial,) = compare(compare_keys(data=str(data), examples=2, max_new_tokens=4)).trials
    assert (trial.metric, trial.higher_is_better) == ("loss", False)
    assert len(trial.scores) == 5
    assert min(trial.scores) < trial.test["loss"] < max(trial.scores)
    assert [example.prompt.startswith("text") for example in trial.examples] == [True, True]


def test_generated_text_decides(compare_keys: Keys) -> None:
    (trial,) = compare(compare_keys(metric="exact_match", metrics=["accuracy"], max_new_tokens=4)).trials
    assert set(trial.test) == {"loss", "exact_match", "accuracy"}
    assert sum(trial.scores) / 5 == pytest.approx(trial.test["exact_match"])


def test_bad_input_costs_nothing(compare_keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_runner, "perform", lambda *_, **__: pytest.fail("a trial was run"))
    with pytest.raises(DataError, match="test rows are training rows too"):
        compare(compare_keys(test_data=compare_keys()["data"]))
    with pytest.raises(ConfigError, match="too small for one step"):
        compare(compare_keys(budget=1, budget_unit="tokens"))
    with pytest.raises(ConfigError, match="seeds"):
        compare(compare_keys(seeds=[-1]))
    (tmp_path / "one.jsonl").write_text(
        "".join(json.dumps({"text": f"row {i}", "label": "same"}) + "\n" for i in range(9)), encoding="utf-8"
    )
    with pytest.raises(DataError, match=r"one\.jsonl .* have one label, 'same'; give rows with .* two labels at least"):
        compare(compare_keys(data=str(tmp_path / "one.jsonl")))
    with pytest.raises(OutputFolderError, match="another comparison is running"), Folder(tmp_path / "held").held():
        compare(compare_keys(output_dir=str(tmp_path / "held")))


def test_what_is_refused_leaves_the_folder_as_it_was(compare_keys: Keys, tmp_path: Path) -> None:
    small = compare_keys(budget=1, budget_unit="tokens")
    with pytest.raises(ConfigError, match="too small for one step"):
        compare(small)
    compare(compare_keys())  # put right, in the same folder
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file() and path.suffix}
    with pytest.raises(ConfigError, match="too small for one step"):
        compare(small, overwrite=True)
    assert {path: path.read_bytes() for path in before} == before, "what was to be replaced is gone"


def test_other_rows_need_another_folder(compare_keys: Keys) -> None:
    compare(compare_keys())
    with pytest.raises(OutputFolderError, match=r"on other rows \(data/train.jsonl"):
        compare(compare_keys(test_split=0.4), resume=True)
    with pytest.raises(OutputFolderError, match="holds a comparison already"):
        compare(compare_keys())


def test_a_budget_of_seconds_that_was_stopped_goes_on(compare_keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = iter([400.0, 4000.0])
    monkeypatch.setattr(measure, "_tokens_per_second", lambda *_: next(speeds))
    keys = compare_keys(budget=1, budget_unit="seconds", evaluations=4)
    train, begun = measure.train, []

    def stopped(recipe: Any, **options: Any) -> Any:
        begun.append((recipe.run.max_steps, options.get("resume", False)))
        return train(recipe, **options)

    monkeypatch.setattr(measure, "train", stopped)
    with pytest.raises(Interrupted):
        compare(keys, watcher=Follower(signal_at=2))
    (trial,) = compare(keys, resume=True).trials
    assert trial.status == "done"
    assert begun == [(begun[0][0], False), (begun[0][0], True)]


def test_how_fast_a_model_writes_may_be_left_out(compare_keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petune.comparison.measure.writing_speed", lambda model: pytest.fail("it was measured"))
    keys = compare_keys(methods=["hard_prompts"], generation_speed=False)
    (trial,) = petune.compare(keys).trials
    assert trial.status == "done"
    assert (trial.generation_tokens_per_second, trial.generation_latency_ratio) == (None, None)
    assert trial.can_generate
