"""The repetition penalty (Keskar et al. 2019, https://arxiv.org/abs/1909.05858), with virtual tokens left out of it."""

from typing import final

from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, RepetitionPenaltyLogitsProcessor


@final
class _RepetitionPenalty(LogitsProcessor):  # type: ignore[misc]
    """transformers' penalty on what has occurred; ids beyond the vocabulary have no score to be lowered.

    Args:
        penalty: divides the scores.
    """

    def __init__(self, penalty: float) -> None:
        self._penalty = RepetitionPenaltyLogitsProcessor(penalty)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores [B, V] after tokens [B, T]."""
        real = input_ids < scores.shape[-1]
        # A token that the row holds anyway takes their places: what occurs twice is penalised once.
        first = input_ids.gather(1, real.int().argmax(1, keepdim=True))
        return self._penalty(input_ids.where(real, first), scores)  # type: ignore[no-any-return]


def repetition_penalty(penalty: float) -> LogitsProcessorList:
    """Return what lowers the scores of tokens that have occurred; nothing at a penalty of 1."""
    return LogitsProcessorList([_RepetitionPenalty(penalty)] if penalty != 1 else [])
