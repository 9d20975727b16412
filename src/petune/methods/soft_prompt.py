"""A soft prompt: virtual tokens as embeddings, in front of everything or among the tokens of a row.

Shapes: P virtual tokens, d hidden width.
"""

from typing import final

import torch
from torch import Tensor, nn

from petune.backbone.positions import require_positions
from petune.backbone.structure import Structure
from petune.methods.method import Target
from petune.sites.attention import SourcedSlot
from petune.sites.embeddings import EmbeddingSlot, EmbeddingSource, reader_path
from petune.sites.placement import Placement
from petune.sites.sites import Slot


@final
class SoftPrompt(EmbeddingSource):
    """The learned embeddings.

    Args:
        start: their start [P, d]; of a prompt in several versions, one behind the other.
    """

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.prompt_embeddings = nn.Parameter(start.detach().to(torch.float32, copy=True))

    def embeddings(self) -> Tensor:
        """Return the learned embeddings."""
        return self.prompt_embeddings


def stands_outside_rows(structure: Structure) -> bool:
    """Say whether tokens in front need not be in the rows: what is made of them is the same for all, and is all seen.

    Convolutions and recurrent blocks would not know of such tokens.
    """
    return structure.is_decoder_lm and structure.attends_only and structure.embeds_once


def soft_prompt_slots(target: Target, num_virtual_tokens: int, placement: Placement | None) -> dict[str, Slot]:
    """Return where virtual tokens plug in: among the input's tokens where rows hold them, else every attention.

    Raises:
        ConfigError: the base has fewer positions than virtual tokens.
    """
    require_positions(target.model, num_virtual_tokens)
    if placement is not None:
        return {reader_path(target.model): EmbeddingSlot(num_virtual_tokens)}
    return {attention.path: SourcedSlot(num_virtual_tokens) for attention in target.structure.attentions}
