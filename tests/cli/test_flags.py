from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import pytest
import typer
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from petune.cli.command import CONTEXT
from petune.cli.flags import extra_settings, flags_of, read, setting_rows, shown_default, spellings, values
from petune.errors import ConfigError
from petune.evaluation.options import ESCAPES
from petune.training.recipe import RunOptions


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
    ends: Annotated[tuple[str, ...], ESCAPES] = ()
    """Where to end."""


def given(arguments: list[str]) -> dict[str, object]:
    """Run a command with the flags of Options; return the settings it was given."""
    seen: dict[str, object] = {}
    app = typer.Typer()

    @app.command()
    @flags_of(Options)
    def command(**flags: object) -> None:
        seen.update(values(flags, Options))

    app(arguments, standalone_mode=False, **CONTEXT)
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
        (["--target", "[xy]"], {"target": "[xy]"}),
        (["--names", '["a, b", "\\n"]'], {"names": ("a, b", "\n")}),
        (["--names", "\n"], {"names": ("\n",)}),
        (["--names", ","], {"names": (",",)}),
        (["--names", "[xy]"], {"names": ("[xy]",)}),
        (["--rates", '{"a,b": 1}'], {"rates": {"a,b": 1}}),
        (["--ends", r"\n"], {"ends": ("\n",)}),
        (["--ends", r"\n\n, a\tb"], {"ends": ("\n\n", "a\tb")}),
        (["--ends", r"\\n"], {"ends": (r"\n",)}),
        (["--ends", r"\d"], {"ends": (r"\d",)}),
        (["--names", r"C:\new"], {"names": (r"C:\new",)}),
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
    settings, others = extra_settings(["r=4", "--names", "a,b", "--batch-size=8", "x.yaml", "--rate", "-1"])
    assert settings == {"r": "4", "names": "a,b", "batch_size": "8", "rate": "-1"}
    assert others == ["x.yaml"]


def test_a_recipe_that_exists_is_one_whatever_its_name(tmp_path: Path) -> None:
    recipe = tmp_path / "r=8" / "recipe.yaml"
    recipe.parent.mkdir()
    recipe.touch()
    assert extra_settings([str(recipe), "data=rows.yaml"]) == ({"data": "rows.yaml"}, [str(recipe)])


@pytest.mark.parametrize(
    ("arguments", "settings", "others"),
    [
        (["--use-it"], {"use_it": "true"}, []),
        (["--use-it", "x.yaml"], {"use_it": "true"}, ["x.yaml"]),
        (["--use-it", "false", "x.yaml"], {"use_it": "false"}, ["x.yaml"]),
        (["--use-it", "--r", "4"], {"use_it": "true", "r": "4"}, []),
        (["--no-use-it", "x.yaml"], {"use_it": "false"}, ["x.yaml"]),
        (["use_it=no"], {"use_it": "no"}, []),
    ],
    ids=str,
)
def test_a_switch_needs_no_value(arguments: list[str], settings: dict[str, str], others: list[str]) -> None:
    assert extra_settings(arguments, {"use_it"}) == (settings, others)


def test_every_key_of_a_recipe_has_a_flag_with_its_meaning(petune: Callable[..., str]) -> None:
    lines = petune("train", "--help").splitlines()
    flags = [line.split()[0] for line in lines if line.startswith("  --")]
    printed = "".join("".join(lines).split())
    assert len(RunOptions.model_fields) > 40
    for name, field in RunOptions.model_fields.items():
        assert f"--{name.replace('_', '-')}" in flags
        assert "".join((field.description or "absent").split()) in printed
    assert flags.index("--model") < flags.index("--data") < flags.index("--learning-rate")


def test_a_default_is_shown_as_it_is_written() -> None:
    assert [shown_default(value) for value in (None, (), True, 1e-8, ("a", "b"), "x")] == [
        "none",
        "none",
        "true",
        "1e-08",
        "a,b",
        "x",
    ]


def test_rows_of_settings() -> None:
    rows = dict(setting_rows(Options))
    assert rows["batch_size=INTEGER"] == "Rows at once. (default: 4)"
    assert rows["shuffle=true|false"] == "Mix the rows. (default: true)"
    assert rows["rates=KEY=VALUE,..."] == "Rates by name."


def test_other_spellings_are_known() -> None:
    class Aliased(BaseModel):
        r: int = Field(8, validation_alias=AliasChoices("r", "lora_r"))
        alpha: int = 1

    assert spellings(Aliased) == {"r": "r", "lora_r": "r", "alpha": "alpha"}


def test_a_flag_without_a_value() -> None:
    with pytest.raises(ConfigError, match=r"--rank has no value, or is unknown; write --rank VALUE, or KEY=VALUE"):
        extra_settings(["--rank"])


def test_a_map_without_an_equals_sign() -> None:
    with pytest.raises(ConfigError, match=r"'a' is not KEY=VALUE; write several as KEY=VALUE,KEY=VALUE"):
        read(Options.model_fields["rates"], "a")
