"""`petune predict`: an answer to every row, JSONL in and JSONL out."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from petune.cli.command import new_app
from petune.cli.flags import flags_of
from petune.cli.loading import LoadOptions, checked, load_model, refuse_existing, split
from petune.cli.reporting import say
from petune.data.options import DataOptions
from petune.errors import ConfigError
from petune.evaluation.options import EvaluationOptions, GenerationOptions

app = new_app()

_LEFT_OUT = ("eval_data", "validation_split", "max_length", "overlong", "train_on", "metrics")


@app.command(help="Answer every row of a file (JSONL in, JSONL out).")
@flags_of(LoadOptions, DataOptions, EvaluationOptions, GenerationOptions, leave_out=_LEFT_OUT)
def predict(
    output: Annotated[str, typer.Option("--output", help="JSONL file to write; - for stdout.", metavar="FILE")] = "-",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output file.")] = False,
    **given: Any,
) -> None:
    """Answer every row of a file."""
    loading, reading, measuring, generating = split(
        given, LoadOptions, DataOptions, EvaluationOptions, GenerationOptions
    )
    data = reading.pop("data", None)
    if data is None:
        raise ConfigError("no data: give --data with a file of rows to answer")
    checked(EvaluationOptions, measuring)
    checked(GenerationOptions, generating)
    path = Path(output)
    if output != "-":
        refuse_existing(path, overwrite=overwrite)
    from petune import api
    from petune.checkpoint.durable import write_text

    answers = api.predict(load_model(loading), data, **reading, **measuring, **generating)
    lines = "".join(json.dumps(a.to_dict(), ensure_ascii=False, default=str) + "\n" for a in answers)
    if output == "-":
        sys.stdout.write(lines)
    else:
        write_text(path, lines)
        say(f"{len(answers):,} rows written to {path}")
