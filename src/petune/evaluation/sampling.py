"""Tokens sampled row by row: what a row draws depends on the seed and on its number, not on the rows beside it.

Shapes: B rows, T tokens, V vocabulary.
"""

import random
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from petune.evaluation.options import GenerationOptions


@final
class _RowSampling(LogitsProcessor):  # type: ignore[misc]
    """Leaves one token, drawn from the distribution over all: the greedy choice behind it takes that.

    Args:
        options: temperature, top_k, top_p and the seed.
        rows: number of each row [B].
    """

    def __init__(self, options: GenerationOptions, rows: Sequence[int]) -> None:
        self._warpers = LogitsProcessorList([TemperatureLogitsWarper(options.temperature)])
        if options.top_k:
            self._warpers.append(TopKLogitsWarper(options.top_k))
        if options.top_p < 1:
            self._warpers.append(TopPLogitsWarper(options.top_p))
        self._draws = [random.Random(f"{options.seed}:{row}") for row in rows]  # noqa: S311 - a sample, not a secret

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores [B, V] of which one in each row is finite, after tokens [B, T]."""
        summed = self._warpers(input_ids, scores).double().softmax(-1).cumsum(-1)
        drawn = torch.tensor([draw.random() for draw in self._draws], dtype=summed.dtype, device=summed.device)
        # The first token up to which the shares add up to more than what was drawn.
        chosen = torch.searchsorted(summed, drawn[:, None] * summed[:, -1:], right=True).clamp(max=summed.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)


def row_sampling(options: GenerationOptions, rows: Sequence[int]) -> LogitsProcessorList:
    """Return what draws the tokens of ``rows``, by their numbers; nothing at temperature 0 and in a beam search."""
    return LogitsProcessorList([_RowSampling(options, rows)] if samples_by_row(options) else [])


def samples_by_row(options: GenerationOptions) -> bool:
    """Say whether each row draws its own tokens; beams of a row are drawn together, by transformers."""
    return options.temperature > 0 and options.num_beams == 1


def samples_beams(options: GenerationOptions) -> bool:
    """Say whether beams are drawn, with PyTorch's own random numbers."""
    return options.temperature > 0 and options.num_beams > 1
