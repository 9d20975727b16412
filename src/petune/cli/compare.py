"""`petune compare`: methods side by side on your data, from a recipe, flags, or both."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from petune.cli.command import new_app
from petune.cli.flags import extra_settings, flags_of, kinds_of, read, values
from petune.comparison.recipe import SHARED_KEYS, CompareOptions
from petune.errors import ConfigError
from petune.training.options import TrainingOptions
from petune.training.paths import at_home
from petune.training.recipe import read_yaml, saved_recipe

if TYPE_CHECKING:
    from petune.comparison.watching import Watcher

app = new_app()
DEFAULT_OUTPUT = CompareOptions.model_fields["output_dir"].default
DECIDED = tuple(
    n for n in TrainingOptions.model_fields if n not in SHARED_KEYS and n not in CompareOptions.model_fields
)
_LISTS = tuple(
    f"--{k.replace('_', '-')}" for k, field in CompareOptions.model_fields.items() if tuple in kinds_of(field)
)
EPILOG = (
    "Settings of a method, and what to search besides its learning rate, stand in a recipe: see docs/compare.md. Flags"
    " and KEY=VALUE override the recipe; --resume without a recipe takes the folder's own."
)


class _Compare(TyperCommand):
    """The command with lists that may be written with blanks: --models A B."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, joined(args))


def joined(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the words that follow a flag of a list as one, between commas."""
    found: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        found.append(argument)
        if argument.replace("_", "-") in _LISTS and rest:
            words = [rest.pop(0)]
            while rest and not rest[0].startswith("-") and "=" not in rest[0] and not _is_recipe(rest[0]):
                words.append(rest.pop(0))
            found.append(",".join(words))
    return found


def _is_recipe(argument: str) -> bool:
    return argument.endswith((".yaml", ".yml"))


@app.command(
    help="Compare methods on your data, fairly, and write a report.",
    epilog=EPILOG,
    cls=_Compare,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
@flags_of(CompareOptions, TrainingOptions, CompareOptions, leave_out=DECIDED)  # its own words where both have a key
def compare(
    context: typer.Context,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(help="A recipe file and settings.", metavar="RECIPE.yaml|KEY=VALUE", hidden=True),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what the same line would run, with estimates, and stop.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the comparison in the output folder: run only what is missing, methods, models and seeds"
            " that are given now among it.",
        ),
    ] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="With --resume, run again what failed, ran out of memory or was refused.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the comparison that the output folder holds.")
    ] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="Print lines instead of the live table, as for a log.")
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let the bases' repositories run their own code.")
    ] = False,
    **given: Any,
) -> None:
    """Compare methods on your data."""
    if retry and not resume:
        raise ConfigError("--retry does nothing without --resume: it runs again what failed in an earlier call")
    keys = _keys([*(arguments or []), *context.args], given, resume=resume)
    from petune.cli.compare_table import LiveTable, PlainLines, print_comparison, print_plan
    from petune.comparison import run
    from petune.comparison.recipe import CompareRecipe

    recipe = CompareRecipe.parse(keys)
    watcher: Watcher = PlainLines() if plain or not LiveTable.possible() else LiveTable()
    how: dict[str, bool] = {
        "resume": resume, "overwrite": overwrite, "retry": retry, "trust_remote_code": trust_remote_code
    }  # fmt: skip
    if plan:
        print_plan(run.plan(recipe, watcher=watcher, **how))
        return
    comparison = run.compare(recipe, watcher=watcher, **how)
    print_comparison(comparison, Path(recipe.options.output_dir))


def _keys(arguments: list[str], given: dict[str, Any], *, resume: bool) -> dict[str, Any]:
    """Return the settings of the recipe, overridden by flags and KEY=VALUE arguments."""
    fields = {**{name: TrainingOptions.model_fields[name] for name in SHARED_KEYS}, **CompareOptions.model_fields}
    switches = {name for name, field in fields.items() if kinds_of(field) == {bool}}
    extra, others = extra_settings(arguments, switches)
    if len(others) > 1:
        raise ConfigError(f"one recipe at a time, got {', '.join(others)}; settings are written KEY=VALUE")
    written = {**values(given, CompareOptions, TrainingOptions), **extra}
    if others:
        recipe = read_yaml(Path(others[0]))
    else:
        folder = Path(at_home(str(written.get("output_dir", DEFAULT_OUTPUT))))
        recipe = saved_recipe(folder, "comparison", written) if resume else {}
    return recipe | {key: read(fields[key], value) if key in fields else value for key, value in written.items()}
