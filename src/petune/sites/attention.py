"""The attention site: keys and values of an adapter's own inside every attention call.

transformers hands each attention to a function found by name. While an adapter is plugged in, that name is ours: the
function looks up the calling module's site, lets it add keys and values, and goes on to PyTorch's attention. Nothing is
added to the K/V cache, so a cache may be kept over several turns, be static, or be reordered by a beam search.

Shapes: B rows, T queries, S keys (cached ones included), P virtual tokens, H heads, K key-value heads, D head width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, final

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from petune.backbone.arguments import without_cache
from petune.backbone.positions import require_positions
from petune.backbone.structure import body_of
from petune.errors import BaseModelError
from petune.kernels.attention import attend
from petune.kernels.row_attention import ROW_LAYOUT, attend_by_row
from petune.sites.answers import predicts_answer
from petune.sites.attention_switch import IMPLEMENTATION, AttentionSwitch
from petune.sites.gated import GatedAttention, GatedSlot
from petune.sites.routing import Route, Routing, Stack
from petune.sites.side_by_side import Part, flags_of, side_by_side

KeysValues = tuple[Tensor, Tensor]
"""Keys and values [K, P, D], as the attention function sees them: after any rotary embedding."""


class AttentionSlot(nn.Module, ABC):
    """What one adapter adds to one attention."""

    position_shift: int = 0
    """How far the slot moves the positions of real tokens: P where virtual tokens take the first P positions."""

    answer_only: bool = False
    """Whether its keys and values are hidden from all tokens but those that predict the answer."""

    @abstractmethod
    def forward(self, stack: Stack) -> KeysValues:
        """Return the extra keys and values [K, P, D] for rows of ``stack``; they share the softmax of the real ones."""


Reader = Callable[[Tensor], Mapping[str, KeysValues]]
"""Takes input embeddings [P, d]; returns the keys and values the base makes of them, by path of the attention."""


class Source(nn.Module, ABC):
    """What an adapter computes anew at each forward pass, once, for all its attention slots."""

    @abstractmethod
    def forward(self, read: Reader) -> Mapping[str, KeysValues]:
        """Return the keys and values of each slot, by path."""


@final
class SourcedSlot(AttentionSlot):
    """A slot whose keys and values come from its adapter's :class:`Source`.

    Args:
        position_shift: see :class:`AttentionSlot`.
        answer_only: see :class:`AttentionSlot`.
    """

    def __init__(self, position_shift: int, *, answer_only: bool = False) -> None:
        super().__init__()
        self.position_shift = position_shift
        self.answer_only = answer_only
        self.current: dict[Stack, KeysValues] = {}

    def forward(self, stack: Stack) -> KeysValues:
        """Return what the source computed for the running forward pass."""
        assert stack in self.current, "the model itself was not called, so nothing was computed"
        return self.current[stack]


@final
class AttentionSite:
    """All slots that adapters have plugged into one attention module."""

    def __init__(self, routing: Routing) -> None:
        self.slots: dict[str, AttentionSlot] = {}
        self.gated = GatedAttention(routing)
        self.seen: list[KeysValues] | None = None
        """Where keys and values [B, K, S, D] of calls are noted, while somebody wants to know them."""
        self._routing = routing

    @property
    def in_use(self) -> bool:
        """Whether a slot is plugged in, or somebody watches."""
        return bool(self.slots or self.gated.slots) or self.seen is not None

    def plug(self, name: str, slot: AttentionSlot | GatedSlot) -> None:
        """Add the slot of adapter ``name``."""
        if isinstance(slot, GatedSlot):
            self.gated.slots[name] = slot
        else:
            self.slots[name] = slot

    def unplug(self, name: str) -> None:
        """Remove the slot of adapter ``name``."""
        (self.slots if name in self.slots else self.gated.slots).pop(name)

    def extend(
        self, key: Tensor, value: Tensor, mask: Tensor | None, queries: int, *, is_causal: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return keys and values [B, K, P + S, D] and the mask [B, 1, T, P + S] with this site's own in front."""
        parts = self._parts(key)
        if not parts:
            return key, value, mask
        rows, keys = key.shape[0], key.shape[2]
        if mask is None:
            mask = key.new_ones(queries, keys, dtype=torch.bool)[None, None]
            mask = mask.tril(keys - queries) if is_causal else mask
        mask = mask.expand(rows, -1, queries, keys)
        own_key, own_value, visible = side_by_side(parts, key)
        shown = visible[:, None, None, :].expand(-1, mask.shape[1], queries, -1)
        if any(part.is_partly_hidden for part in parts):
            hidden = flags_of([part.answer_only for part in parts], parts, key)
            shown = shown & (~hidden[:, None, None, :] | self._predict_answer(key, queries)[:, None, :, None])
        if mask.dtype != torch.bool:
            shown = torch.zeros_like(shown, dtype=mask.dtype).masked_fill(~shown, torch.finfo(mask.dtype).min)
        return (
            torch.cat([own_key, key], 2),
            torch.cat([own_value, value], 2),
            torch.cat([shown, mask], -1),
        )

    def _predict_answer(self, key: Tensor, queries: int) -> Tensor:
        """Return which queries [B, T] predict a token of the answer."""
        first = self._routing.first_place
        places = torch.arange(first, first + queries, device=key.device)
        return predicts_answer(places, len(key), self._routing.answers(key.device))

    def _parts(self, key: Tensor) -> list[Part]:
        """Return what the slots give, group by group."""
        route = self._routing.route
        parts = []
        for group in route.groups if route.virtual_tokens else ():
            slots = [self.slots[name] for name in group.stack if name in self.slots]
            if slots:
                own = [slot(group.stack) for slot in slots]
                keys, values = (torch.cat([pair[i].to(key) for pair in own], 1)[None] for i in (0, 1))
                answer_only = [
                    slot.answer_only for slot, (k, _) in zip(slots, own, strict=True) for _ in range(k.shape[1])
                ]
                rows = group.index(route.num_rows, key.shape[0], key.device)
                parts.append(Part(rows, keys, values, answer_only))
        return parts


_SITE = "_adapter_site"
"""Attribute of an attention module that holds its site: graphs that blocks share look there, not in a table."""


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    virtual_bias: Callable[[int], Tensor] | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Do what PyTorch's attention does, with the module's own site in between."""
    site: AttentionSite | None = getattr(module, _SITE, None)
    layout = options.pop(ROW_LAYOUT, None)
    if layout is not None:
        return attend_by_row(module, query, key, value, layout, **options), None
    if site is None:
        return attend(module, query, key, value, attention_mask, **options), None
    if site.seen is not None:
        site.seen.append((key, value))
    is_causal, keys = getattr(module, "is_causal", True), key.shape[2]
    key, value, attention_mask = site.extend(key, value, attention_mask, query.shape[2], is_causal=is_causal)
    bias, added = options.get("position_bias"), key.shape[2] - keys
    if bias is not None and added:  # it is added to the scores; in T5 virtual keys lie at no distance
        front = bias.new_zeros(added) if virtual_bias is None else virtual_bias(added)
        options["position_bias"] = torch.cat([front.expand(*bias.shape[:-1], added), bias], -1)
    output = attend(module, query, key, value, attention_mask, **options)
    return site.gated.add(module, query, output, options.get("scaling")), None


def _mask(**options: Any) -> Tensor | None:
    """Return the boolean mask [B, 1, T, S], always written out: extra keys could not be added to a left-out one."""
    return sdpa_mask(**{**options, "allow_is_causal_skip": False, "allow_is_bidirectional_skip": False})  # type: ignore[no-any-return]


AttentionInterface.register(IMPLEMENTATION, _attention)
AttentionMaskInterface.register(IMPLEMENTATION, _mask)


@contextmanager
def _nothing_recomputed(model: nn.Module) -> Iterator[None]:
    """Switch gradient checkpointing off inside the block."""
    recomputing = [module for module in model.modules() if module.__dict__.get("gradient_checkpointing")]
    for module in recomputing:
        module.gradient_checkpointing = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in recomputing:
            module.gradient_checkpointing = True  # type: ignore[assignment]


@final
class AttentionSites:
    """The attention modules of one model, by path, and the switch that sends them through their sites.

    Args:
        model: the base.
        routing: which adapters each row goes through.
    """

    def __init__(self, model: PreTrainedModel, routing: Routing) -> None:
        self._model = model
        self._routing = routing
        self._sites: dict[str, AttentionSite] = {}
        self._switch = AttentionSwitch(model, _attention)
        self._holders = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Send the model's attention through ours inside the block, where it can be, for its faster training."""
        self._holders += 1
        try:
            if not self._switch.is_on:
                with suppress(BaseModelError):
                    self._switch.on()
            yield
        finally:
            self._holders -= 1
            self._tidy()

    def held_for(self, route: Route) -> AbstractContextManager[None]:
        """Send it through ours where rows differ and the model's own may compute once what ours does for each row."""
        return self.held() if route.num_rows and self._switch.replaces_methods else nullcontext()

    def plug(self, name: str, path: str, slot: AttentionSlot | GatedSlot) -> None:
        """Add the slot of adapter ``name`` to the attention at ``path``."""
        self._site(path).plug(name, slot)

    def unplug(self, name: str, path: str) -> None:
        """Remove the slot of adapter ``name``; with the last one the model gets its own attention back."""
        self._sites[path].unplug(name)
        self._tidy()

    @contextmanager
    def watch(self, paths: tuple[str, ...]) -> Iterator[Mapping[str, list[KeysValues]]]:
        """Note the keys and values [B, K, S, D] of every call of the attentions at ``paths`` inside the block."""
        lent = set(paths) - self._sites.keys()
        sites = {path: self._site(path) for path in paths}
        seen: dict[str, list[KeysValues]] = {path: [] for path in paths}
        for path, site in sites.items():
            site.seen = seen[path]
        try:
            yield seen
        finally:
            for site in sites.values():
                site.seen = None
            self._tidy(lent)

    def read(self, paths: tuple[str, ...], inputs: Tensor, *, length: int = 0) -> dict[str, KeysValues]:
        """Return the keys and values [K, P, D] that the model makes of token ids [P] or embeddings [P, d], by path.

        Args:
            paths: the attentions.
            inputs: what is read.
            length: of the sequence that they begin, where rotary embeddings depend on it.

        Raises:
            ConfigError: the model has fewer positions than P.
        """
        count = len(inputs)
        require_positions(self._model, count)
        kind = "inputs_embeds" if inputs.is_floating_point() else "input_ids"
        positions = {}
        if length > count:  # one more token, which none of them sees, stands where the sequence ends
            inputs = torch.cat([inputs, inputs[-1:]])
            positions["position_ids"] = torch.tensor([[*range(count), length - 1]], device=self._model.device)
        tokens = {kind: inputs[None].to(self._model.device), **positions}
        if self._model.config.is_encoder_decoder:  # read on both sides
            tokens[f"decoder_{kind}"] = tokens[kind]
        # Recomputed activations would meet another route in the backward pass; those of a few virtual tokens are small.
        body = body_of(self._model)
        with self.watch(paths) as seen, _nothing_recomputed(self._model):
            body(**tokens, **without_cache(body))
        return {path: (calls[0][0][0, :, :count], calls[0][1][0, :, :count]) for path, calls in seen.items()}

    def _site(self, path: str) -> AttentionSite:
        if not self._switch.is_on:
            self._switch.on()
        if path not in self._sites:
            own = self._model.get_submodule(path).__dict__
            self._sites[path] = own.setdefault(_SITE, AttentionSite(self._routing))
        return self._sites[path]

    def _tidy(self, lent: Collection[str] = ()) -> None:
        """Let go of sites that nobody uses, and of ``lent`` ones, which somebody else may go on using."""
        for path in [p for p, site in self._sites.items() if p in lent or not site.in_use]:
            if not self._sites.pop(path).in_use:
                self._model.get_submodule(path).__dict__.pop(_SITE, None)
        if not self._sites and not self._holders and self._switch.is_on:
            self._switch.off()


def read_keys_values(model: PreTrainedModel, paths: tuple[str, ...], inputs: Tensor) -> dict[str, KeysValues]:
    """Return keys and values [K, P, D], by path, that the bare ``model`` makes of token ids [P] or embeddings [P, d].

    Raises:
        BaseModelError: the model's attention cannot be reached.
        ConfigError: the model has fewer positions than P.
    """
    routing = Routing.of(model)
    with torch.no_grad(), routing.use(Route.everywhere(())):
        return AttentionSites(model, routing).read(paths, inputs)
