"""A soft prompt: virtual tokens as embeddings, which the base turns into keys and values.

Shapes: P virtual tokens, d hidden width.
"""

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn

from petune.sites.attention import KeysValues, Reader, Source


@final
class SoftPrompt(Source):
    """The learned embeddings.

    Args:
        start: their start [P, d].
    """

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.prompt_embeddings = nn.Parameter(start.detach().to(torch.float32, copy=True))

    def forward(self, read: Reader) -> Mapping[str, KeysValues]:
        """Return the keys and values the base makes of the prompt."""
        return read(self.prompt_embeddings)
