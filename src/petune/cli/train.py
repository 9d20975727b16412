"""`petune train`: a recipe, flags, or both, to an adapter folder."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from petune.cli.flags import extra_settings, flags_of, values
from petune.errors import ConfigError
from petune.training.output import RECIPE_FILE
from petune.training.recipe import Recipe, RunOptions, read_yaml

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

EPILOG = (
    "Settings of the method are written KEY=VALUE (r=16 target_modules=attention) or --key value;"
    " petune methods lists them. Flags and KEY=VALUE override the recipe."
)


@app.command(
    help="Train an adapter on your data.",
    epilog=EPILOG,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
@flags_of(RunOptions)
def train(
    context: typer.Context,
    recipe: Annotated[
        str | None, typer.Argument(help="YAML file of settings.", metavar="[RECIPE.yaml]")
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
    keys = _keys(recipe, context.args, given, resume=resume)
    resolved = Recipe.parse(keys)
    if dry_run:
        sys.stdout.write(resolved.to_yaml())
        return
    from petune.cli.progress import ProgressBar
    from petune.cli.reporting import print_data_reports, print_result
    from petune.training.run import train as run_training

    result = run_training(
        resolved,
        resume=resume,
        overwrite=overwrite,
        trust_remote_code=trust_remote_code,
        listeners=[ProgressBar()],
        on_data=print_data_reports,
    )
    print_result(result)


def _keys(recipe: str | None, rest: list[str], given: dict[str, Any], *, resume: bool) -> dict[str, Any]:
    """Return the settings of the recipe, overridden by flags and KEY=VALUE arguments."""
    if recipe is not None and "=" in recipe:  # no recipe: the first KEY=VALUE took its place
        recipe, rest = None, [recipe, *rest]
    flags = values(given, RunOptions)
    output_dir = flags.get("output_dir")
    from_file: dict[str, Any] = {}
    if recipe is not None:
        from_file = read_yaml(Path(recipe))
    elif resume and output_dir is not None and (Path(output_dir) / RECIPE_FILE).exists():
        from_file = read_yaml(Path(output_dir) / RECIPE_FILE)
    from petune import methods

    method = flags.get("method") or from_file.get("method") or RunOptions.model_fields["method"].default
    if not isinstance(method, str):
        raise ConfigError(f"method is {method!r}; give a name that `petune methods` lists")
    pairs = extra_settings(rest, {**RunOptions.model_fields, **methods.get(method).config_class.model_fields})
    return {**from_file, **flags, **pairs}
