import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module

import pytest
import typer

from petune import __version__
from petune.cli import main as command_line
from petune.errors import DivergedError, Interrupted


def stub(error: BaseException) -> Callable[..., None]:
    def fail(**arguments: object) -> None:
        raise error

    return fail


def test_version(petune: Callable[..., str]) -> None:
    assert petune("--version") == f"petune {__version__}\n"


def test_help_lists_every_command(petune: Callable[..., str]) -> None:
    printed = petune("--help")
    assert all(name in printed for name in command_line.COMMANDS)
    assert "--debug" in printed


@pytest.mark.parametrize("arguments", [[], ["-h"], ["data"], ["data", "inspect", "-h"]], ids=" ".join)
def test_help_is_given_where_a_command_is_missing(arguments: list[str], petune: Callable[..., str]) -> None:
    assert petune(*arguments).startswith(" ".join(["Usage: petune", *arguments]).removesuffix(" -h"))


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (DivergedError("the loss is nan"), 5, "petune: error: the loss is nan\n"),
        (Interrupted("stopped; go on with", 15), 143, "petune: stopped; go on with\n"),
        (KeyboardInterrupt(), 130, "petune: interrupted\n"),
        (BrokenPipeError(), 0, ""),
        (RuntimeError("CUDA out of memory. Tried"), 4, "petune: error: not enough memory (CUDA out of memory. Tried);"),
        (RuntimeError("can't allocate memory: 7"), 4, "petune: error: not enough memory (can't allocate memory: 7);"),
        (MemoryError(), 4, "petune: error: not enough memory (MemoryError); put less through"),
        (ZeroDivisionError("a\nb"), 1, "petune: internal error: ZeroDivisionError: a b. Run the same command"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_errors_become_a_line_and_a_code(
    error: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    app = typer.Typer()
    app.command()(lambda: stub(error)())
    monkeypatch.setattr("petune.cli.env.app", app)
    assert command_line.run(["env"]) == code
    assert capsys.readouterr().err.startswith(said)


def test_debug_shows_the_traceback_before_the_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer()
    app.command()(lambda: stub(DivergedError("the loss is nan"))())
    monkeypatch.setattr("petune.cli.env.app", app)
    assert command_line.run(["env"], debug=True) == 5
    said = capsys.readouterr().err
    assert said.startswith("Traceback ")
    assert said.endswith("petune: error: the loss is nan\n")


def test_what_petune_logs_is_shown_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def log() -> None:
        logging.getLogger("petune.backbone").info("fetching a model")
        logging.getLogger("petune").warning("careful")

    app = typer.Typer()
    app.command()(log)
    monkeypatch.setattr("petune.cli.env.app", app)
    for _ in range(2):
        assert command_line.run(["env"]) == 0
        assert capsys.readouterr().err == "petune: fetching a model\npetune: warning: careful\n"


def process(*arguments: str) -> "subprocess.Popen[str]":
    """Start the command line in a process of its own, with Python's own handling of Ctrl-C."""
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        " from petune.cli.main import main; main()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.usefixtures("folder")
def test_ctrl_c_ends_with_a_line_and_130() -> None:
    with process("chat", "--model", "tiny", "--max-new-tokens", "2") as running:
        assert running.stdin is not None
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdin.write("hello\n")
        running.stdin.flush()
        running.stdout.read(1)  # it answers, so the model is loaded
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=60) == 130
        assert running.stderr.read() == "petune: interrupted\n"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", ["eval", "predict", "generate", "chat"])
def test_ctrl_c_while_the_model_loads(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(flags: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    monkeypatch.setattr(import_module(f"petune.cli.{command}"), "load_model", load)
    own = {"generate": ["--prompt", "a"], "chat": []}.get(command, ["--data", "rows.jsonl"])
    assert command_line.run([command, "--model", "tiny", *own]) == 130
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "petune: interrupted\n")


@pytest.mark.usefixtures("folder")
def test_a_reader_that_has_enough_is_no_error() -> None:
    with process("predict", "--model", "tiny", "--data", "rows.jsonl", "--labels", "positive,negative") as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.wait(timeout=60) == 0
        assert running.stderr.read() == ""
