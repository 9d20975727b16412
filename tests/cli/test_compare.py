import json
from collections.abc import Callable
from pathlib import Path

import pytest

from petune.cli import main as command_line
from petune.cli.compare import joined
from petune.cli.compare_table import PlainLines

SMALL = (
    "compare", "--data", "rows.jsonl", "--output-dir", "out", "--no-baselines", "--rate-factors", "1", "--budget", "1",
    "--budget-unit", "steps", "--no-forgetting", "--validation-split", "2", "--engine", "inline",
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(autouse=True)
def _in_folder(folder: Path) -> None:
    rows = [{"text": f"row {i}", "label": "positive" if i % 2 else "negative"} for i in range(16)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_lists_may_be_written_with_blanks() -> None:
    given = ["--models", "a", "b", "recipe.yaml", "--methods", "lora", "ia3", "r=4", "--seeds", "1", "--plan"]
    assert joined(given) == [
        "--models", "a,b", "recipe.yaml", "--methods", "lora,ia3", "r=4", "--seeds", "1", "--plan",
    ]  # fmt: skip
    assert joined(["--rate-factors", "1", "3", "--metrics", "f1", "recall"]) == [
        "--rate-factors", "1,3", "--metrics", "f1,recall",
    ]  # fmt: skip
    assert joined(["--models"]) == ["--models"]


def test_plan_run_and_resume(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.run([*SMALL, "--models", "tiny", "--methods", "lora", "bitfit", "--plan"]) == 0
    planned, told = capsys.readouterr()
    assert "bitfit  not here" in planned
    assert "bitfit on tiny: this base has no biases" in planned
    assert "1 trials; about" in planned
    assert "engine: inline, " in planned
    assert "Nothing was run." in planned
    assert not Path("out").exists()
    said = "measuring what a token costs here, for the estimates: lora on tiny, 1 of 1"
    assert said in told.splitlines()

    assert command_line.run([*SMALL, "--models", "tiny", "--methods", "lora", "bitfit"]) == 0
    printed = capsys.readouterr()
    assert "report: out/report.html" in printed.out
    assert "bitfit on tiny, seed 42: refused: this base has no biases" in printed.out
    assert "1/1  tiny  lora  final  seed 42  learning_rate=0.0004  done  accuracy " in printed.err

    assert command_line.run(["compare", "--resume", "--output-dir", "out", "--seeds", "42", "43"]) == 0
    printed = capsys.readouterr()
    assert "2/2  tiny  lora  final  seed 43" in printed.err
    assert "1/2" not in printed.err
    assert " ± " in printed.out


def test_a_recipe_and_flags(petune: Callable[..., str]) -> None:
    Path("recipe.yaml").write_text(
        "models: [tiny]\ndata: rows.jsonl\nmethods: [{method: lora, settings: {r: 2}}]\n"
        "baselines: false\nseeds: [1, 2]\n"
    )
    planned = petune("compare", "recipe.yaml", "--validation-split", "2", "seeds=3", "--rate-factors", "1", "--plan")
    assert "lora r=2  1 " in planned
    assert "1 trials; about" in planned


def test_a_plan_heeds_the_flags_of_the_run(petune: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    line = [*SMALL, "--models", "tiny", "--methods", "lora"]
    petune(*line)
    assert "1 trials, 1 of them done already" in petune("compare", "--resume", "--output-dir", "out", "--plan")
    assert "1 trials; about" in petune(*line, "--overwrite", "--plan", "--plain")
    assert Path("out/report.html").exists()
    capsys.readouterr()
    assert command_line.run([*line, "--plan"]) == 2
    assert "out holds a comparison already: go on with --resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--retry"], "--retry does nothing without --resume"),
        (["--learning-rate", "0.1"], "'learning_rate' is decided for each trial"),
        (["a.yaml", "b.yaml"], "one recipe at a time, got a.yaml, b.yaml"),
        (["gone.yaml"], "cannot read the recipe gone.yaml"),
        ([], "no training data: give data"),
        (["--data", "rows.jsonl", "--methods", "lorra"], "unknown method 'lorra'"),
        (["--data", "rows.jsonl", "--budgett", "3"], "unknown key 'budgett' for a comparison. Did you mean 'budget"),
        (["--data", "rows.jsonl", "--seeds", "one"], "'seeds.0' is 'one'"),
    ],
)
def test_bad_input(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.run(["compare", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_overwrite_or_resume_is_asked_for(petune: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    petune(*SMALL, "--models", "tiny", "--methods", "lora", "--plain")
    assert command_line.run([*SMALL, "--models", "tiny", "--methods", "lora"]) == 2
    assert "out holds a comparison already: go on with --resume" in capsys.readouterr().err
    petune(*SMALL, "--models", "tiny", "--methods", "lora", "--overwrite")


def test_where_there_is_no_terminal_lines_are_printed(
    monkeypatch: pytest.MonkeyPatch, petune: Callable[..., str]
) -> None:
    monkeypatch.setattr("petune.comparison.run.compare", lambda recipe, **options: pytest.fail(str(options["watcher"])))
    with pytest.raises(BaseException, match=PlainLines.__name__):
        petune(*SMALL, "--models", "tiny", "--methods", "lora")


def test_the_plan_names_the_cluster_and_what_a_trial_gets(
    petune: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("petune.comparison.engines.find_spec", lambda name: object())
    planned = petune(
        *SMALL, "--models", "tiny", "--methods", "lora", "--plan", "--engine", "ray", "--cpus-per-trial", "2",
        "--gpus-per-trial", "0.5", "--memory-per-trial", "4GiB",
    )  # fmt: skip
    assert (
        "engine: ray at the cluster that is found, or one of this machine, 2 threads a trial, 0.5 GPUs, 4GiB; as many"
        " trials at once as it holds" in planned
    )


@pytest.mark.parametrize("more", [(), ("--plan",)])
def test_ray_that_is_not_installed(
    more: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("petune.comparison.engines.find_spec", lambda name: None)
    assert command_line.run([*SMALL, "--models", "tiny", "--engine", "ray", *more]) == 4
    assert "pip install 'petune[ray]'" in capsys.readouterr().err
    assert not Path("out").exists()


def test_methods_given_on_resume_are_added(petune: Callable[..., str]) -> None:
    petune(*SMALL, "--models", "tiny", "--methods", "lora")
    petune("compare", "--resume", "--output-dir", "out", "--methods", "ia3")
    report = Path("out/report.md").read_text(encoding="utf-8")
    assert "lora" in report
    assert "ia3" in report


def test_less_of_a_metric_of_one_s_own_is_better(
    petune: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own.py").write_text("def errors(predictions, references):\n    return 1.0\n", encoding="utf-8")
    line = [*SMALL, "--models", "tiny", "--methods", "lora", "--no-greater-is-better"]
    petune(*line, "--metric", "own.py:errors", "--metrics", "loss", "accuracy")
    (trial,) = json.loads(Path("out/report.json").read_text(encoding="utf-8"))["trials"]
    assert (trial["metric"], trial["higher_is_better"]) == ("errors", False)
    assert set(trial["test"]) == {"loss", "errors", "accuracy"}
    assert command_line.run([*line, "--overwrite"]) == 2
    assert "greater_is_better is false, and of accuracy more is better" in capsys.readouterr().err


def test_a_flag_of_a_list_may_be_spelt_with_underscores() -> None:
    assert joined(["--rate_factors", "0.3", "1", "--seeds", "1", "2"]) == ["--rate_factors", "0.3,1", "--seeds", "1,2"]
