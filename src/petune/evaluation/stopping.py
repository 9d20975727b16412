"""Where a generated text ends."""

import threading
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria

BROKEN = "\ufffd"
"""What bytes that are no whole character are decoded to."""

_BYTES_OF_CHARACTER = 4
_SPARE_TOKENS = 32


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
    """Ends a row once a ``stop`` text occurs in what was generated after ``prompt_length`` tokens.

    It is asked after every token, so only the last ones are decoded, in which a stop text may have been completed.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], prompt_length: int) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._prompt_length = prompt_length
        # A token of a stop text has a byte of it at least. The rest is for what a cut spoils, and for special tokens.
        self._tokens = max(len(text.encode()) for text in self._stop) + _SPARE_TOKENS

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Say of each row [B] whether its last token ends it."""
        rows = input_ids[:, self._prompt_length :][:, -self._tokens :].tolist()
        return torch.tensor([self._ends(row) for row in rows], device=input_ids.device)

    def _ends(self, ids: Sequence[int]) -> bool:
        for cut in range(_BYTES_OF_CHARACTER):
            text = decode(self._tokenizer, ids[cut:])
            if first_stop(text, self._stop) is not None:
                return True
            if BROKEN not in text:
                return False
        return False  # what is broken is so wherever a character may begin


@final
class Cancelled(StoppingCriteria):  # type: ignore[misc]
    """Ends every row once ``event`` is set."""

    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Say of each row [B] whether it ends."""
        return torch.full((len(input_ids),), self._event.is_set(), device=input_ids.device)
