"""`petune train`: a recipe, flags, or both, to an adapter folder."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from typer.core import TyperCommand

from petune import methods
from petune.cli.command import new_app
from petune.cli.flags import extra_settings, flags_of, kinds_of, read, setting_rows, spellings, values
from petune.errors import ConfigError
from petune.training.paths import at_home
from petune.training.recipe import SEVERAL, Recipe, RunOptions, read_yaml, saved_recipe
from petune.training.shared_recipe import SharedRecipe, spread

app = new_app()
DEFAULT_METHOD: str = RunOptions.model_fields["method"].default
DEFAULT_OUTPUT = RunOptions.model_fields["output_dir"].default
_ARGUMENTS = "petune.arguments"
EPILOG = (
    "Settings of the method are written KEY=VALUE (r=16 target_modules=attention) or --key value; petune train"
    " --method NAME --help and petune methods list them. Flags and KEY=VALUE override the recipe. A recipe with several"
    " adapters trains them together, in one pass over the base."
)


class _Train(TyperCommand):
    """The command with one more section of help: the settings of the method that the arguments name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[_ARGUMENTS] = tuple(args)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        super().format_options(ctx, formatter)
        method = methods.get(_method_named(ctx.meta[_ARGUMENTS]))
        rate = f"learning rate {method.learning_rate:g} unless given" if method.trains else "nothing is trained"
        with formatter.section(f"Settings of method {method.name} ({rate})"):
            formatter.write_dl(setting_rows(method.config_class))


def _method_named(arguments: Sequence[str]) -> str:
    """Return the method that the arguments name, themselves or in their recipe; the default where they do not."""
    name = DEFAULT_METHOD
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        key, equals, value = argument.lstrip("-").partition("=")
        if key == "method":
            return value if equals else following
        if argument.endswith((".yaml", ".yml")):
            name = str(read_yaml(Path(argument)).get("method", name))
    return name


@app.command(
    help="Train an adapter on your data.",
    epilog=EPILOG,
    cls=_Train,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
@flags_of(RunOptions)
def train(
    context: typer.Context,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(help="A recipe file and settings.", metavar="RECIPE.yaml|KEY=VALUE", hidden=True),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint in the output folder.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run that the output folder holds.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and stop.")] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let the base's repository run its own code.")
    ] = False,
    **given: Any,
) -> None:
    """Train an adapter on your data."""
    recipe, written = _read([*(arguments or []), *context.args], given, resume=resume)
    resolved = _shared(recipe, written) if SEVERAL in recipe else Recipe.parse(_overridden(recipe, written))
    if dry_run:
        sys.stdout.write(resolved.to_yaml())
        return
    if isinstance(resolved, SharedRecipe):
        from petune.cli.train_together import train_together

        train_together(resolved, resume=resume, overwrite=overwrite, trust_remote_code=trust_remote_code)
        return
    from petune.cli.progress import ProgressBar
    from petune.cli.reporting import ESTIMATE_SHARE, print_data_reports, print_result
    from petune.training.run import train as run_training

    result = run_training(
        resolved,
        resume=resume,
        overwrite=overwrite,
        trust_remote_code=trust_remote_code,
        listeners=[ProgressBar()],
        on_data=print_data_reports,
        estimate=ESTIMATE_SHARE,
    )
    print_result(result)


def _read(arguments: list[str], given: dict[str, Any], *, resume: bool) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the keys of the recipe, and the settings that flags and KEY=VALUE arguments write over them."""
    extra, others = extra_settings(arguments, _switches())
    if len(others) > 1:
        raise ConfigError(f"one recipe at a time, got {', '.join(others)}; settings are written KEY=VALUE")
    written = {**values(given, RunOptions), **extra}
    return _from_file(others, written, resume=resume), written


def _shared(recipe: Mapping[str, Any], written: Mapping[str, Any]) -> SharedRecipe:
    """Return the recipe of several adapters; what is written holds for each, the output folder for all of them."""
    folder = {"output_dir": written["output_dir"]} if "output_dir" in written else {}
    own = {key: value for key, value in written.items() if key != "output_dir"}
    adapters = {name: _overridden(keys, own) for name, keys in spread({**recipe, **folder}).items()}
    place = {"output_dir": {**recipe, **folder}.get("output_dir", DEFAULT_OUTPUT)}
    return SharedRecipe.parse({**place, SEVERAL: adapters})


def _overridden(recipe: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a recipe, ``written`` in place of its own, whichever spelling either uses."""
    config = methods.get(str(written.get("method", recipe.get("method", DEFAULT_METHOD)))).config_class
    fields = {**config.model_fields, **RunOptions.model_fields}
    names = spellings(config)
    written = {names.get(key, key): value for key, value in written.items()}
    kept = {key: value for key, value in recipe.items() if names.get(key, key) not in written}
    return kept | {key: read(fields[key], value) if key in fields else value for key, value in written.items()}


def _switches() -> set[str]:
    """Return the settings that are true or false: those of the run and of every method."""
    models: list[type[BaseModel]] = [RunOptions, *(methods.get(name).config_class for name in methods.names())]
    return {name for model in models for name, field in model.model_fields.items() if kinds_of(field) == {bool}}


def _from_file(recipes: list[str], overrides: dict[str, Any], *, resume: bool) -> dict[str, Any]:
    """Return the keys of the recipe, or of the run that is resumed."""
    if recipes:
        return read_yaml(Path(recipes[0]))
    folder = Path(at_home(str(overrides.get("output_dir", DEFAULT_OUTPUT))))
    return saved_recipe(folder, "run", overrides) if resume else {}
