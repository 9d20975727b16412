"""`petune data inspect`: the data report, without training."""

import json
from typing import Annotated, Any

import typer

from petune.backbone.task_names import TASK_NAMES, TaskName
from petune.cli.command import new_app
from petune.cli.flags import flags_of, values
from petune.cli.reporting import say
from petune.data.options import DataOptions
from petune.errors import ConfigError, nearest

app = new_app()


def _task(name: str | None) -> TaskName | None:
    if name is not None and name not in TASK_NAMES:
        raise ConfigError(f"unknown task '{name}'; the tasks are {', '.join(TASK_NAMES)}.{nearest(name, TASK_NAMES)}")
    return name


@app.callback(help="Inspect a data set as training would read it.", invoke_without_command=True)
def _root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        say(context.get_help())


@app.command(
    short_help="Print the data report.",
    help="Print the data report: rows kept, cut and dropped, lengths, learned tokens, an example.",
)
@flags_of(DataOptions, leave_out=("data", "eval_data"))
def inspect(
    data: Annotated[str | None, typer.Argument(help="A file or a hub data set id.", metavar="DATA")] = None,
    model: Annotated[str, typer.Option("--model", help="Base model whose tokenizer reads the rows.")] = "demo",
    task: Annotated[
        str | None, typer.Option("--task", help="What the rows are for (default: by the model and the rows).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let the base's repository run its own code.")
    ] = False,
    **given: Any,
) -> None:
    """Print the data report."""
    if data is None:
        raise ConfigError("no data: petune data inspect FILE, or a hub data set id")
    from petune.api import inspect_data

    settings = values(given, DataOptions)
    report = inspect_data(data, model=model, task=_task(task), trust_remote_code=trust_remote_code, **settings)
    say(json.dumps(report.to_dict(), indent=2, ensure_ascii=False) if as_json else report.render())
