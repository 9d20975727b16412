"""What the READMEs tell people to type works, and is the same in both languages."""

import io
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from petune.cli import main as command_line
from petune.training.recipe import Recipe

ROOT = Path(__file__).parents[2]
ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")


def code_blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """Return the lines of all bash blocks."""
    return [line for block in code_blocks(text, "bash") for line in block.splitlines() if line.strip()]


COMMANDS = [line for line in commands(ENGLISH) if line.startswith("petune ")]


def on_tiny_model(line: str) -> list[str]:
    """Return the arguments of a command, with a tiny model in place of the demo's and two steps of training."""
    arguments = ["./tiny" if word == "demo" else word for word in shlex.split(line)[1:]]
    extra = {
        "train": ["--model", "./tiny", "--max-steps", "2"],
        "data": ["--model", "./tiny"],
        "compare": shlex.split(
            "--models ./tiny --data examples/reviews.jsonl --test-data examples/reviews_test.jsonl --methods lora"
            " --no-baselines --rate-factors 1 --budget 1 --budget-unit steps --validation-split 12"
        ),
    }
    return [*arguments, *extra.get(arguments[0], [])]


@pytest.fixture
def folder(
    tiny_model: Callable[..., PreTrainedModel],
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The current folder: like a checkout, with a tiny model in it."""
    tiny_tokenizer.model_max_length = 512
    tiny_model("llama", max_position_embeddings=512).save_pretrained(tmp_path / "tiny")
    tiny_tokenizer.save_pretrained(tmp_path / "tiny")
    for name in ("examples", "recipes"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_same_code_stands_in_both_languages() -> None:
    for language in ("bash", "python"):
        assert code_blocks(ENGLISH, language) == code_blocks(CHINESE, language)
    assert len(code_blocks(ENGLISH, "python")) == 1
    assert ENGLISH.count("```") == CHINESE.count("```")
    assert re.findall(r"\]\(([^)]+)\)", ENGLISH)[1:] == re.findall(r"\]\(([^)]+)\)", CHINESE)[1:]


def test_the_two_commands_come_first() -> None:
    assert commands(ENGLISH)[:2] == ["./scripts/demo", "./scripts/test"]
    for line in commands(ENGLISH)[:2]:
        assert (ROOT / line).stat().st_mode & 0o111, f"{line} is not executable"


def test_every_command_is_shown() -> None:
    assert {line.split()[1] for line in COMMANDS} >= set(command_line.COMMANDS) - {"demo"}


@pytest.mark.timeout(1200)  # a dozen commands, one of which starts a process of its own: minutes on a busy machine
def test_the_commands_run_one_after_another(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for line in COMMANDS:
        monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
        code = command_line.run(on_tiny_model(line))
        captured = capsys.readouterr()
        assert code == 0, f"{line}: {captured.err}"
        assert captured.out, line
    assert (folder / "outputs" / "lora" / "adapter_model.safetensors").is_file()
    assert len((folder / "outputs" / "answers.jsonl").read_text(encoding="utf-8").splitlines()) == 20
    assert (folder / "outputs" / "merged" / "model.safetensors").is_file()
    assert (folder / "outputs" / "compare_reviews" / "report.html").is_file()


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("petune train")])
def test_a_dry_run_prints_a_recipe(line: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.run([*on_tiny_model(line), "--dry-run"]) == 0
    recipe = Recipe.parse(yaml.safe_load(capsys.readouterr().out))
    assert recipe.run.max_steps == 2
    assert not (folder / "outputs").exists()


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["methods"], *([n, "--help"] for n in command_line.COMMANDS)]
)
def test_help_of_every_command_runs(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.run(arguments) == 0
    assert capsys.readouterr().out


def test_the_python_block_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = code_blocks(ENGLISH, "python")
    assert block.count('"demo"') == 1
    taken = {word for line in COMMANDS for word in line.split() if word.startswith("outputs/")}
    assert not taken & set(re.findall(r'"(outputs/[^"]+)"', block)), "a command would refuse the folder of the block"
    exec(compile(block.replace('"demo"', '"./tiny"'), "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "48 read" in printed
    assert "'accuracy'" in printed
    assert (folder / "outputs" / "first" / "adapter_model.safetensors").is_file()
