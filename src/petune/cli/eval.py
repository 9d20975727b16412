"""`petune eval`: metrics of a base model or an adapter on data."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from petune.cli.command import new_app
from petune.cli.flags import flags_of
from petune.cli.loading import LoadOptions, check_inputs, checked, load_model, refuse_existing, split
from petune.cli.reporting import print_metrics, say
from petune.data.options import DataOptions
from petune.errors import ConfigError
from petune.evaluation.options import EvaluationOptions

app = new_app()


@app.command(help="Measure a base model or an adapter on data.")
@flags_of(LoadOptions, DataOptions, EvaluationOptions, leave_out=("eval_data", "validation_split"))
def evaluate(
    output: Annotated[
        str | None,
        typer.Option("--output", help="Write the metrics to this JSON file as well.", metavar="FILE"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output file.")] = False,
    **given: Any,
) -> None:
    """Measure a base model or an adapter on data."""
    loading, reading, measuring = split(given, LoadOptions, DataOptions, EvaluationOptions)
    data = reading.pop("data", None)
    if data is None:
        raise ConfigError("no data: give --data with a file or a hub data set id")
    asked = checked(EvaluationOptions, measuring)
    if output is not None:
        refuse_existing(Path(output), overwrite=overwrite)
    from petune import api
    from petune.checkpoint.durable import write_text

    check_inputs(data, asked.metrics)
    result = api.evaluate(load_model(loading), data, **reading, **measuring)
    say(f"{result.num_rows:,} rows in {result.seconds:.1f} s")
    if result.labels:
        say(f"labels compared: {', '.join(result.labels)}")
    print_metrics(result.metrics)
    if output is not None:
        write_text(Path(output), json.dumps(result.to_dict(), indent=2, ensure_ascii=False) + "\n")
