"""What ``petune data inspect`` tells: the data report of the training rows, without training."""

from transformers import PreTrainedTokenizerBase

from petune.data.encoding import EncodedSet
from petune.data.loading import render_examples
from petune.data.report import DataReport
from petune.tasks.rows import TaskRows


def report_on(rows: TaskRows, tokenizer: PreTrainedTokenizerBase, *, model_limit: int | None = None) -> DataReport:
    """Return the report on the training rows.

    Args:
        rows: read and checked.
        tokenizer: the base model's.
        model_limit: positions of the model, where known.

    Raises:
        DataError: as a training run would.
    """
    return encode_rows(rows, tokenizer, model_limit=model_limit).report


def encode_rows(rows: TaskRows, tokenizer: PreTrainedTokenizerBase, *, model_limit: int | None = None) -> EncodedSet:
    """Render and encode the training rows as a run would.

    Args:
        rows: read and checked.
        tokenizer: the base model's.
        model_limit: positions of the model, where known.

    Raises:
        DataError: as a training run would.
    """
    assert rows.data.train is not None
    examples = render_examples(rows.data.train, rows.options, tokenizer)
    return rows.task.encode_within(
        examples,
        tokenizer,
        labels=rows.labels,
        max_length=rows.options.max_length,
        overlong=rows.options.overlong,
        model_limit=model_limit,
    )
