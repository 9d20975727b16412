"""`petune predict`: an answer to every row, JSONL in and JSONL out."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from petune.checkpoint.durable import growing_file, partial_name
from petune.cli.command import new_app
from petune.cli.flags import flags_of
from petune.cli.loading import LoadOptions, check_inputs, checked, load_model, refuse_existing, split
from petune.cli.reporting import say
from petune.data.options import DataOptions
from petune.errors import ConfigError
from petune.evaluation.options import EvaluationOptions, GenerationOptions

if TYPE_CHECKING:
    from petune.evaluation.predict import Prediction

app = new_app()
logger = logging.getLogger("petune")

_LEFT_OUT = ("eval_data", "validation_split", "max_length", "overlong", "train_on", "metrics")


@app.command(help="Answer every row of a file (JSONL in, JSONL out).")
@flags_of(LoadOptions, DataOptions, EvaluationOptions, GenerationOptions, leave_out=_LEFT_OUT)
def predict(
    output: Annotated[
        str,
        typer.Option(
            "--output", help="JSONL file to write, called FILE.part until it is whole; - for stdout.", metavar="FILE"
        ),
    ] = "-",
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
        refuse_existing(partial_name(path), overwrite=overwrite)
    from petune.api import iter_predictions
    from petune.data.json_files import json_line

    check_inputs(data)
    answers = iter_predictions(load_model(loading), data, **reading, **measuring, **generating)
    lines = (json_line(row) for row in _rows(answers))
    if output == "-":
        for line in lines:
            say(line.removesuffix("\n"))
        return
    count = 0
    try:
        with growing_file(path) as add:
            for line in lines:
                add(line)
                count += 1
    except BaseException:
        logger.warning("%s is not complete: the first %s rows are in %s", path, f"{count:,}", partial_name(path))
        raise
    say(f"{count:,} rows written to {path}")


def _rows(answers: Iterable["Prediction"]) -> Iterator[dict[str, Any]]:
    """Yield what is written of each answer; that it takes the place of one of the row's own columns is told once."""
    told: set[str] = set()
    for answer in answers:
        row = answer.to_dict()
        replaced = [name for name, own in answer.fields.items() if row[name] is not own and name not in told]
        if replaced:
            logger.warning(
                "answers take the place of the rows' own %s; rename what is to be kept", " and ".join(replaced)
            )
            told.update(replaced)
        yield row
