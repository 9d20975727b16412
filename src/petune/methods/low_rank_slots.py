"""What LoRA learns at one linear or one embedding.

Shapes: N entries, d_in and d_out of the host linear, r rank. A [r, d_in], B [d_out, r], as in HF PEFT's files, also for
GPT-2's Conv1D, whose own weight is [d_in, d_out]. An embedding is a linear of one-hot inputs: d_in counts its rows.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petune.kernels.dropout import dropout
from petune.kernels.low_rank import add_low_rank, add_low_rank_by_run, low_rank, updated_row_norms
from petune.methods.dora import redirected, row_factors
from petune.sites.host import Host
from petune.sites.output import OutputSlot
from petune.sites.routing import Runs


class LowRankSlot(OutputSlot, ABC):
    """A and B of one host; perhaps what A and B started as, and the lengths that the weight's rows are given.

    Args:
        scale: s, the factor on the update.
        d_out: of the host.
        has_magnitude: whether the lengths of the rows are learned too (DoRA).
        start: A and B at the start, where they are subtracted from the base (PiSSA).
    """

    start_a: Tensor | None
    start_b: Tensor | None

    def __init__(self, scale: float, d_out: int, *, has_magnitude: bool, start: tuple[Tensor, Tensor] | None) -> None:
        super().__init__()
        self.scale = scale
        self.lora_magnitude_vector = nn.Parameter(torch.ones(d_out)) if has_magnitude else None
        a, b = start or (None, None)
        self.register_buffer("start_a", a)
        self.register_buffer("start_b", b)
        self._host: Host | None = None

    @property
    @abstractmethod
    def factors(self) -> tuple[Tensor, Tensor]:
        """A and B as they are now."""

    @property
    def change(self) -> tuple[Tensor, Tensor]:
        """A [., d_in] and B [d_out, .] whose product, times the scale, is all that is added to the host's weight."""
        a, b = self.factors
        if self.start_a is None or self.start_b is None:
            return a, b
        return torch.cat([a, self.start_a]), torch.cat([b, -self.start_b], dim=1)

    def meet(self, host: Host) -> None:
        """Remember the host, of whose weight the magnitude is a part."""
        self._host = host

    def row_norms(self) -> Tensor:
        """Return the lengths [d_out] of the rows of the host's weight with the update."""
        assert self._host is not None, "the slot is plugged in nowhere"
        return updated_row_norms(self._host.weight, *self.change, self.scale)

    @torch.no_grad()
    def start_magnitude(self, host: Host) -> None:
        """Let the magnitude start as the lengths that the rows have, so that nothing changes."""
        assert self.lora_magnitude_vector is not None
        self.meet(host)
        self.lora_magnitude_vector.copy_(self.row_norms())

    def merged_weight(self, weight: Tensor) -> Tensor:
        """Return W + s B A [d_out, d_in], its rows brought to their lengths where these are learned."""
        a, b = self.change
        merged = weight + self.scale * (b @ a)
        if self.lora_magnitude_vector is None:
            return merged
        return merged * row_factors(self.lora_magnitude_vector, self.row_norms())[:, None]

    def _redirected(self, y: Tensor, product: Tensor, update: Tensor) -> Tensor:
        """Return y with the host's own ``product`` and ``update`` brought to the learned lengths."""
        assert self.lora_magnitude_vector is not None
        return redirected(y, product, update, self.lora_magnitude_vector, self.row_norms())


class LoRASlot(LowRankSlot):
    """A and B of one linear.

    Args:
        a: start of A [r, d_in].
        b: start of B [d_out, r].
        scale: s.
        dropout: probability of dropping an input of the update in training.
        has_magnitude: whether the lengths of the rows are learned too.
        subtract_start: whether the update counts from its start.
    """

    def __init__(
        self,
        a: Tensor,
        b: Tensor,
        scale: float,
        *,
        dropout: float = 0.0,
        has_magnitude: bool = False,
        subtract_start: bool = False,
    ) -> None:
        start = (a.clone(), b.clone()) if subtract_start else None
        super().__init__(scale, len(b), has_magnitude=has_magnitude, start=start)
        self.lora_A = nn.Parameter(a)
        self.lora_B = nn.Parameter(b)
        self.dropout = dropout
        self.takes_bias = has_magnitude

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        """A and B as they are now."""
        return self.lora_A, self.lora_B

    def forward(self, x: Tensor, y: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return y + s B A dropout(x), counted from the start or redirected where that is asked for.

        Args:
            x: the input [N, ..., d_in].
            y: the output [N, ..., d_out] so far.
            bias: what y holds beside a product with x; by default the host's.
        """
        dropped = dropout(x, self.dropout) if self.dropout and self.training else x
        if self.start_a is None and self.lora_magnitude_vector is None:
            return add_low_rank(dropped, y, self.lora_A, self.lora_B, self.scale)
        update = low_rank(dropped, self.lora_A, self.lora_B, self.scale)
        if self.start_a is not None and self.start_b is not None:
            # Two products of one shape: at the start their difference is zero to the last bit.
            at_start = low_rank(dropped, self.start_a, self.start_b, self.scale)
            update = update - at_start
            if dropped is not x:  # what belongs to the base sees its input whole
                y = y + at_start - low_rank(x, self.start_a, self.start_b, self.scale)
        if self.lora_magnitude_vector is None:
            return y + update
        assert self._host is not None
        bias = self._host.bias if bias is None else bias
        if dropped is not x:
            product = F.linear(dropped, self._host.weight.to(x.dtype))
        else:
            product = y if bias is None else y - bias.to(y.dtype)
        return self._redirected(y, product, update)

    @classmethod
    def together(cls, slots: Sequence[OutputSlot], runs: Runs, x: Tensor, y: Tensor) -> Tensor | None:
        """Return y + s B A dropout(x), each row with its own A and B; None where more than these is learned."""
        own = [slot for slot in slots if isinstance(slot, LoRASlot)]
        first = own[0]
        if any(slot.start_a is not None or slot.lora_magnitude_vector is not None for slot in own):
            return None
        if any((slot.dropout, slot.training) != (first.dropout, first.training) for slot in own):
            return None
        dropped = dropout(x, first.dropout) if first.dropout and first.training else x
        wide, flat = dropped.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
        each = len(flat) // runs[-1][2]
        runs = tuple((place, start * each, end * each) for place, start, end in runs)
        pairs, scales = [slot.factors for slot in own], [slot.scale for slot in own]
        return add_low_rank_by_run(wide, flat, pairs, scales, runs).view(y.shape)


class LoRAEmbeddingSlot(LowRankSlot):
    """A and B of one embedding; rows of A are looked up, never multiplied.

    Args:
        a: start of A [r, V].
        b: start of B [d, r].
        scale: s.
        has_magnitude: whether the lengths of the embedding's columns are learned too.
    """

    def __init__(self, a: Tensor, b: Tensor, scale: float, *, has_magnitude: bool = False) -> None:
        super().__init__(scale, len(b), has_magnitude=has_magnitude, start=None)
        self.lora_embedding_A = nn.Parameter(a)
        self.lora_embedding_B = nn.Parameter(b)

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        """A and B as they are now."""
        return self.lora_embedding_A, self.lora_embedding_B

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return y + s B A[:, x] for token ids ``x``, in the host's own scale; redirected where that is asked for."""
        assert self._host is not None
        module = self._host.module
        assert isinstance(module, nn.Embedding)
        hidden = F.embedding(x, self.lora_embedding_A.t().to(y.dtype), padding_idx=module.padding_idx)
        update = F.linear(hidden, self.lora_embedding_B.to(y.dtype)) * self.scale
        # Some models (Gemma 3, BART) scale what they look up; Structure lists no others that rework it.
        update = update * getattr(module, "embed_scale", 1.0)
        if self.lora_magnitude_vector is None:
            return y + update
        return self._redirected(y, y, update)
