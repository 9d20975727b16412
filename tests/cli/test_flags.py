from typing import Literal

import pytest
import typer
from pydantic import BaseModel, ConfigDict

from petune.cli.flags import extra_settings, flags_of, read, values
from petune.errors import ConfigError


class Options(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    rate: float | None = None
    """Rate of something."""
    batch_size: int = 4
    """Rows at once."""
    shuffle: bool = True
    """Mix the rows."""
    kind: Literal["a", "b"] = "a"
    """Which kind."""
    names: tuple[str, ...] = ()
    """Several names."""
    rates: dict[str, float] | None = None
    """Rates by name."""
    target: str | tuple[str, ...] = "all"
    """One name or several."""


def given(arguments: list[str]) -> dict[str, object]:
    """Run a command with the flags of Options; return the settings it was given."""
    seen: dict[str, object] = {}
    app = typer.Typer()

    @app.command()
    @flags_of(Options)
    def command(**flags: object) -> None:
        seen.update(values(flags, Options))

    app(arguments, standalone_mode=False)
    return seen


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        ([], {}),
        (["--batch-size", "8"], {"batch_size": "8"}),
        (["--batch_size", "8"], {"batch_size": "8"}),
        (["--no-shuffle"], {"shuffle": False}),
        (["--shuffle"], {"shuffle": True}),
        (["--rate", "none"], {"rate": None}),
        (["--names", "a, b"], {"names": ("a", "b")}),
        (["--rates", "a=1,b=2"], {"rates": {"a": "1", "b": "2"}}),
        (["--target", "x"], {"target": "x"}),
        (["--target", "x,y"], {"target": ("x", "y")}),
    ],
    ids=str,
)
def test_flags_become_settings_that_validate(arguments: list[str], settings: dict[str, object]) -> None:
    assert given(arguments) == settings
    Options.model_validate(settings)


def test_help_says_meaning_kind_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()

    @app.command()
    @flags_of(Options, leave_out=("kind",))
    def command(**flags: object) -> None:
        raise AssertionError("help does not run the command")

    with pytest.raises(SystemExit, match="0"):
        app(["--help"])
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--batch-size" in printed
    assert "INTEGER" in printed
    assert "Rows at once. (default: 4)" in printed
    assert "--kind" not in printed


def test_settings_in_leftover_arguments() -> None:
    settings, others = extra_settings(["r=4", "--names", "a,b", "--batch-size=8", "x.yaml"], Options.model_fields)
    assert settings == {"r": "4", "names": ("a", "b"), "batch_size": "8"}
    assert others == ["x.yaml"]


def test_a_flag_without_a_value() -> None:
    with pytest.raises(ConfigError, match=r"--rank has no value, or is unknown; write --rank VALUE, or KEY=VALUE"):
        extra_settings(["--rank"], {})


def test_a_map_without_an_equals_sign() -> None:
    with pytest.raises(ConfigError, match=r"'a' is not KEY=VALUE; write several as KEY=VALUE,KEY=VALUE"):
        read(Options.model_fields["rates"], "a")
