from collections.abc import Callable

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


def test_a_command_without_a_name_shows_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.run([]) in (0, 2)
    captured = capsys.readouterr()
    assert "Usage: petune" in captured.out + captured.err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (DivergedError("the loss is nan"), 5, "petune: error: the loss is nan\n"),
        (Interrupted("stopped; go on with", 15), 143, "petune: error: stopped; go on with\n"),
        (KeyboardInterrupt(), 130, "petune: interrupted\n"),
        (BrokenPipeError(), 0, ""),
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


def test_debug_lets_errors_through(monkeypatch: pytest.MonkeyPatch) -> None:
    app = typer.Typer()
    app.command()(lambda: stub(ZeroDivisionError())())
    monkeypatch.setattr("petune.cli.env.app", app)
    with pytest.raises(ZeroDivisionError):
        command_line.run(["env"], debug=True)
