"""Where a generated text ends."""

import threading
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria


def first_stop(text: str, stop: Sequence[str]) -> int | None:
    """Return where the earliest of the ``stop`` texts starts in ``text``, or None."""
    found = [place for place in map(text.find, stop) if place >= 0]
    return min(found, default=None)


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Return the text of ``ids``: no special tokens, no white space tidied away."""
    text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str), "one sequence makes one text"
    return text


@final
class StopText(StoppingCriteria):  # type: ignore[misc]
    """Ends a row once a ``stop`` text occurs in what was generated after ``prompt_length`` tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], prompt_length: int) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._prompt_length = prompt_length

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Say of each row [B] whether it ends."""
        rows = input_ids[:, self._prompt_length :].tolist()
        ended = [first_stop(decode(self._tokenizer, row), self._stop) is not None for row in rows]
        return torch.tensor(ended, device=input_ids.device)


@final
class Cancelled(StoppingCriteria):  # type: ignore[misc]
    """Ends every row once ``event`` is set."""

    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Say of each row [B] whether it ends."""
        return torch.full((len(input_ids),), self._event.is_set(), device=input_ids.device)
