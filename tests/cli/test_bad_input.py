"""Bad input ends in one line on stderr that says what is wrong and what to do, and in the documented exit code."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from petune.cli import main as command_line

TRAIN = ["train", "--model", "tiny", "--data", "rows.jsonl", "--output-dir", "out", "--max-steps", "1"]
EVAL = ["eval", "--model", "tiny", "--data", "rows.jsonl"]

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must fail; return its one line on stderr: ``fails(arguments, code=2)``."""

    def run(arguments: Sequence[str], *, code: int) -> str:
        capsys.readouterr()
        assert command_line.run(arguments) == code
        said = capsys.readouterr().err
        lines = [line for line in said.splitlines() if "error: " in line]
        assert len(lines) == 1, said
        assert lines[0].startswith("petune: error: ")
        assert said.endswith(f"{lines[0]}\n"), "the error comes last"
        assert "Traceback" not in said
        return lines[0]

    return run


def write_lines(name: str, lines: Sequence[str]) -> None:
    Path(name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def trained_adapter() -> None:
    assert command_line.run(TRAIN) == 0


@pytest.mark.parametrize(
    ("change", "cause", "next_step"),
    [
        (["--learning-rat", "1"], "learning_rat", "learning_rate"),
        (["learnig_rate=1"], "unknown key 'learnig_rate'", "Did you mean 'learning_rate'"),
        (["rr=8"], "unknown key 'rr'", "Its own keys are r, "),
        (["--method", "lorra"], "unknown method 'lorra'", "Did you mean 'lora'"),
        (["r=eight"], "'r' is 'eight'", "integer"),
        (["r=0"], "'r' is '0'", "greater than or equal to 1"),
        (["--learning-rate", "-1"], "'learning_rate' is '-1'", "greater than 0"),
        (["--dtype", "bfloat61"], "dtype 'bfloat61'", "Did you mean 'bfloat16'"),
        (["--device", "gpu"], "device 'gpu'", "use auto, cpu, cuda"),
        (["target_modules=q_prj"], "'q_prj' matches no linear", "Did you mean 'q_proj'"),
        (["--data", "row.jsonl"], "there is no file row.jsonl", "Did you mean 'rows.jsonl'"),
        (["--data", "empty.jsonl"], "empty.jsonl is empty", "at least one row"),
        (["--model", "./tinny"], "tinny", "local folder"),
        (["--metrics", "acuracy", "--validation-split", "2"], "acuracy", "accuracy"),
        (["--eval-steps", "2"], "without validation rows eval_steps would do nothing", "validation_split"),
        (["--resume", "--overwrite"], "--resume goes on with the run", "give one of them"),
        (["--max-length", "4"], "8 of 8 rows", "--overlong"),
        (["--max-length", "4096"], "4096", "--max-length 128"),
        (["--validation-split", "8"], "8 of 8 rows", "from 1 to 7"),
        (["--output-dir", "rows.jsonl"], "rows.jsonl is a file", "--output-dir"),
        (["--output-dir", "rows.jsonl/out"], "rows.jsonl", "--output-dir"),
        (["--output-dir", "tiny"], "base model's own folder", "another --output-dir"),
        (["--resume"], "no checkpoint", "--overwrite"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_a_training_run_that_cannot_start(
    change: list[str], cause: str, next_step: str, fails: Callable[..., str]
) -> None:
    Path("empty.jsonl").touch()
    error = fails([*TRAIN, *change], code=3 if change == ["--resume"] else 2)
    assert cause in error
    assert next_step in error
    assert not Path("out/adapter_model.safetensors").exists()


def test_an_unknown_key_in_a_recipe(fails: Callable[..., str]) -> None:
    write_lines("recipe.yaml", ["model: tiny", "data: rows.jsonl", "lerning_rate: 1"])
    error = fails(["train", "recipe.yaml"], code=2)
    assert "unknown key 'lerning_rate'" in error
    assert "Did you mean 'learning_rate'" in error


@pytest.mark.parametrize("text", ["- a list", "model: [", "model: !!python/name:os.system"])
def test_a_recipe_that_is_none(text: str, fails: Callable[..., str]) -> None:
    write_lines("recipe.yaml", [text])
    assert "recipe.yaml" in fails(["train", "recipe.yaml"], code=2)


def test_a_recipe_may_not_trust_remote_code(fails: Callable[..., str]) -> None:
    write_lines("recipe.yaml", ["model: tiny", "data: rows.jsonl", "trust_remote_code: true"])
    assert "unknown key 'trust_remote_code'" in fails(["train", "recipe.yaml"], code=2)


def test_bad_rows_are_told_in_one_run_before_the_model_loads(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.rmtree("tiny")
    write_lines(
        "bad.jsonl", ['{"text": "a", "label": "x"}', '{"text": "b"', '{"text": "c", "label": []}', '{"text": 4}']
    )
    assert command_line.run([*TRAIN, "--data", "bad.jsonl"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("petune: error: bad.jsonl:2: ")
    assert [line.split(": ")[0] for line in said.splitlines()[1:]] == ["bad.jsonl:3", "bad.jsonl:4"]


def test_an_output_folder_that_holds_a_run(fails: Callable[..., str]) -> None:
    trained_adapter()
    before = Path("out/adapter_model.safetensors").read_bytes()
    error = fails(TRAIN, code=2)
    assert "out holds a run already" in error
    assert "--resume" in error
    assert "--overwrite" in error
    assert Path("out/adapter_model.safetensors").read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_output_folder(folder: Path, fails: Callable[..., str]) -> None:
    (folder / "locked").mkdir(mode=0o500)
    error = fails([*TRAIN, "--output-dir", "locked"], code=2)
    assert "cannot write locked" in error
    assert "permissions" in error


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder that even the superuser cannot write to")
def test_a_folder_that_nobody_can_write_to(fails: Callable[..., str]) -> None:
    error = fails([*TRAIN, "--output-dir", "/sys/kernel/run"], code=2)
    assert "cannot write /sys/kernel/run" in error
    assert "choose another --output-dir" in error


def test_an_adapter_on_another_base(tiny_model: Callable[..., PreTrainedModel], fails: Callable[..., str]) -> None:
    trained_adapter()
    shutil.copytree("tiny", "other")
    tiny_model("llama", num_hidden_layers=1, seed=9).save_pretrained("other")
    error = fails([*EVAL, "--model", "other", "--adapter", "out"], code=3)
    assert "was made for the base" in error
    assert "--allow-base-mismatch" in error


def test_a_tampered_adapter(fails: Callable[..., str]) -> None:
    trained_adapter()
    path = Path("out/adapter_model.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert "is not the file that was saved" in fails([*EVAL, "--adapter", "out"], code=3)


def test_an_adapter_that_is_a_pickle(fails: Callable[..., str]) -> None:
    Path("pickled").mkdir()
    write_lines("pickled/adapter_model.bin", ["not read"])
    error = fails([*EVAL, "--adapter", "pickled"], code=3)
    assert "a pickle" in error
    assert "safetensors" in error


def test_a_loss_that_is_not_finite(fails: Callable[..., str]) -> None:
    error = fails([*TRAIN, "--max-steps", "4", "--learning-rate", "1e30", "--save-steps", "1"], code=5)
    assert "rows.jsonl:" in error
    assert "the step was not taken" in error
    assert "Lower --learning-rate" in error


def test_another_recipe_on_resume(fails: Callable[..., str]) -> None:
    trained_adapter()
    error = fails([*TRAIN, "--resume", "--learning-rate", "1e-5"], code=3)
    assert "learning_rate is 1e-05, was None" in error


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["eval", "--data", "rows.jsonl"], "no model: give --adapter FOLDER"),
        (["eval", "--model", "tiny"], "no data: give --data"),
        (["eval", "--adapter", "nowhere", "--data", "rows.jsonl"], "there is no folder nowhere"),
        (["predict", "--model", "tiny", "--data", "rows.jsonl", "--output", "rows.jsonl"], "rows.jsonl exists already"),
        (["generate", "--model", "tiny"], "no prompt: give --prompt"),
        (["generate", "--model", "tiny", "--prompt", "a", "--temperature", "-1"], "'temperature' is '-1'"),
        (["merge", "--output-dir", "out"], "no adapter: give --adapter FOLDER"),
        (["data", "inspect", "rows.jsonl", "--model", "nowhere"], "nowhere"),
        (["train", "--model", "tiny"], "no training data: give --data"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_other_commands(arguments: list[str], cause: str, fails: Callable[..., str]) -> None:
    code = 3 if "--adapter" in arguments else 2
    assert cause in fails(arguments, code=code)


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["trian"], "no such command 'trian'"),
        (["--no-such-flag"], "no such option: --no-such-flag"),
        (["eval", "--no-such-flag"], "no such option: --no-such-flag"),
        (["eval", "more"], "unexpected extra argument(s) (more)"),
        (["merge"], "missing option '--output-dir'"),
        (["eval", "--data"], "'--data' requires an argument"),
        (["demo", "--rows", "many"], "'--rows': Input should be a valid integer"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_that_cannot_be_read(arguments: list[str], cause: str, fails: Callable[..., str]) -> None:
    error = fails(arguments, code=2)
    assert cause in error
    assert error.endswith("; see --help")


def test_a_wrong_option_is_told_before_the_model_loads(fails: Callable[..., str]) -> None:
    shutil.rmtree("tiny")
    for command, option, cause in (
        ("chat", "--top-p=3", "'top_p' is '3'"),
        ("generate", "--temperature=hot", "'temperature' is 'hot'"),
        ("eval", "--batch-tokens=0", "'batch_tokens' is '0'"),
        ("predict", "--num-beams=0", "'num_beams' is '0'"),
    ):
        own = {"generate": ["--prompt", "a"], "chat": []}.get(command, ["--data", "rows.jsonl"])
        assert cause in fails([command, "--model", "tiny", *own, option], code=2)


@pytest.mark.parametrize("command", ["eval", "predict"])
def test_an_output_file_that_exists(command: str, fails: Callable[..., str]) -> None:
    start = [command, "--model", "tiny", "--data", "rows.jsonl", "--labels", "positive,negative", "--output"]
    assert "rows.jsonl exists already; give another --output, or --overwrite" in fails([*start, "rows.jsonl"], code=2)
    assert "tiny is a folder; give a file with --output" in fails([*start, "tiny", "--overwrite"], code=2)


@pytest.mark.parametrize(
    "arguments", [["train", "--debug", "--model", "tiny"], ["--debug", "train", "--model", "tiny"]]
)
def test_debug_may_stand_anywhere(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        command_line.main(arguments)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "petune.errors.ConfigError: no training data" in said
    assert said.splitlines()[-1].startswith("petune: error: no training data: give --data")
