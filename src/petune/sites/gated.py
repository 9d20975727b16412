"""A second attention beside a model's own: keys and values of an adapter's, a softmax of their own, and a gate.

    output + gate * softmax(scale * q K_a^T) V_a

Nothing enters the model's softmax, its mask or its K/V cache, and no position moves.

Shapes: B rows, T queries, P adapter keys, H query heads, K key-value heads, D head width.
"""

from abc import ABC, abstractmethod
from typing import final

from torch import Tensor, nn

from petune.kernels.attention import product_attention
from petune.sites.routing import Route, Routing


class GatedSlot(nn.Module, ABC):
    """What one adapter adds to the output of one attention."""

    @abstractmethod
    def forward(self, attention: nn.Module, query: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return keys and values [K, P, D], and the gate of each head [H] or of all [1].

        Args:
            attention: the base's attention module that is running.
            query: its queries [B, H, T, D].
        """


@final
class GatedAttention:
    """All gated slots that adapters have plugged into one attention module."""

    def __init__(self, routing: Routing) -> None:
        self.slots: dict[str, GatedSlot] = {}
        self._routing = routing

    def add(self, attention: nn.Module, query: Tensor, output: Tensor, scale: float | None) -> Tensor:
        """Return ``output`` [B, T, H, D] with what each row's slots add to it.

        Args:
            attention: the module that is running.
            query: [B, H, T, D].
            output: the attention's own.
            scale: factor of its scores; 1 / sqrt(D) if None.
        """
        route = self._routing.route
        for group in route.groups if route.virtual_tokens else ():
            slots = [self.slots[name] for name in group.stack if name in self.slots]
            if not slots:
                continue
            index = group.index(route.num_rows, query.shape[0], query.device)
            own_query = query if index is None else query.index_select(0, index)
            # A slot may run linears of the base: they act for it as they do for its rows.
            with self._routing.use(Route.everywhere(group.stack)):
                for slot in slots:
                    keys, values, gate = slot(attention, own_query)
                    added = _gated(own_query, keys, values, gate, scale).to(output.dtype)
                    output = output + added if index is None else output.index_add(0, index, added)
        return output


def _gated(query: Tensor, keys: Tensor, values: Tensor, gate: Tensor, scale: float | None) -> Tensor:
    """Return gate * softmax(scale * q K^T) V [B, T, H, D]."""
    keys, values = (t.to(query.dtype).expand(query.shape[0], -1, -1, -1) for t in (keys, values))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return product_attention(query, keys, values, None, scale) * gate.to(query.dtype)[:, None]
