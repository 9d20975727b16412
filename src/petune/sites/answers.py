"""Which queries of an attention predict a token of the answer.

Shapes: R rows named by the caller, B rows of the call (a multiple of R where a beam search repeats rows), H heads,
T queries, S keys (cached ones included).
"""

import torch
from torch import Tensor

from petune.errors import ConfigError


def predicts_answer(mask: Tensor, answers: Tensor | None) -> Tensor:
    """Return which queries [B, T] predict a token of the answer: the last one before it, and those of it.

    A query's own place among the keys is read off the causal mask: the last key that it sees is its own. So it is
    known with every kind of cache, and nothing is remembered between passes.

    Args:
        mask: what each query sees, boolean or added to the scores [B, 1 or H, T, S].
        answers: index of the first token of each row's answer [R], where the mask lies.

    Raises:
        ConfigError: ``answers`` is None.
    """
    if answers is None:
        raise ConfigError(
            "an adapter is hidden from all but the answer, and nobody said where the answer begins: call the model"
            " inside `with model.answers_from([...]):`, with the index of each row's first answer token (training,"
            " evaluation and generation with petune do so themselves)"
        )
    seen = mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] > torch.finfo(mask.dtype).min / 2
    index = torch.arange(seen.shape[-1], device=seen.device)
    own = torch.where(seen, index, -1).amax(-1)
    starts = answers.repeat_interleave(len(seen) // len(answers), output_size=len(seen))
    return own >= starts[:, None] - 1
