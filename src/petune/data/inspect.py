"""What ``petune data inspect`` tells: the data report of the training rows, without training."""

from typing import TYPE_CHECKING

from petune.data.lengths import encode_within
from petune.data.loading import load_examples
from petune.data.options import DataOptions
from petune.data.report import DataReport

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def inspect_data(
    options: DataOptions,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    seed: int = 42,
    model_limit: int | None = None,
) -> DataReport:
    """Read, check, render and encode the training rows as a run would, and report on them.

    Args:
        options: as a training run has them.
        tokenizer: the base model's.
        seed: seed of samples and of the validation split.
        model_limit: positions of the model, where known.

    Raises:
        DataError: as a training run would.
    """
    examples = load_examples(options, tokenizer, which="train", seed=seed)
    return encode_within(
        examples, tokenizer, max_length=options.max_length, overlong=options.overlong, model_limit=model_limit
    ).report
