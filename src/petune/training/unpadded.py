"""Rows laid end to end, those of several adapters too: no product is spent on padding, and one pass takes them all.

To the model each token is a row of one token at its own position; an attention of ours lets it see its own row. This
saves most where steps are small: rows of unlike lengths need not be split into several passes over the weights. That
the loss is the same is measured on the first batch.

An attention with a window sees of rows within it what it would see without, and rotary embeddings that are scaled by
the longest row leave short ones as they are; batches with a longer row are padded.

What stands in front of an adapter's rows, its virtual tokens and the tokens that all of them begin with, lies there
once, and they look back at it. A pass of its own would cost as much as a hundred tokens do in this one.

Shapes: B rows, N tokens of all of them, virtual ones included, P virtual tokens, d hidden width.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter
from petune.backbone.arguments import takes
from petune.backbone.rope_scaling import unscaled_length
from petune.backbone.windows import attention_window
from petune.data.batching import answer_starts, collate, split_step
from petune.data.encoding import IGNORED, Encoded
from petune.kernels.row_attention import ROW_LAYOUT, NotByRowError, RowLayout
from petune.kernels.upload import uploaded
from petune.kernels.varlen_attention import has_kernel
from petune.sites.attention import SourcedSlot
from petune.sites.embeddings import EmbeddingSource, input_embeddings
from petune.sites.head import Forward, LabelLoss
from petune.sites.output import OutputSlot
from petune.training.shared_prefix import random_numbers, shared_length

logger = logging.getLogger("petune")

_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
_ROUGH = 2e-2
_TRIED = 2
"""Rows of an adapter that are tried: what they begin with alike takes two to be seen."""
_LEAST_SAVED = 1 / 32
"""The share of a batch that has to be saved, for its tokens are sorted into rows at every attention."""
_ANY_TOKEN = 0
"""What is looked up in a virtual token's place."""
Row = tuple[str, Encoded]
"""A row, and the name of its adapter."""


@final
@dataclass(frozen=True, slots=True)
class _Sequence:
    """Tokens that lie side by side: a row, or what stands in front of rows."""

    adapter: str
    ids: Sequence[int]
    labels: Sequence[int]
    """What each token predicts."""
    front: int | None = None
    """Which sequence stands in front of it."""
    row: int | None = None
    """Which row it is; None for what stands in front of rows."""
    is_virtual: bool = False


@final
class Unpadded:
    """Runs a causal language model on rows end to end.

    Args:
        model: the base with the adapters attached.
        objective: what training minimises, on padded rows.
        shares_tokens: whether tokens that all rows of an adapter begin with are computed once.
    """

    def __init__(self, model: AdaptedModel, objective: LabelLoss, *, shares_tokens: bool = False) -> None:
        self._model = model
        self._objective = objective
        # A kernel that takes rows as they lie knows of nothing in front of them.
        self._shares_tokens = shares_tokens and not has_kernel(model.device, model.model.dtype)
        self._by_token = LabelLoss(model.model, model.plugged_into, next_token=False)
        self._longest = _least(attention_window(model.model), unscaled_length(model.model))
        self._works: dict[str, bool] = {}

    def suits(self, rows: Sequence[Row]) -> bool:
        """Say whether ``rows`` can be trained so, and their adapters; two rows of each new one are tried.

        Args:
            rows: the next rows of every adapter.
        """
        if not self._are_short(rows):
            return False
        new: dict[str, list[Encoded]] = {}
        for name, row in rows:
            if name not in self._works and len(new.setdefault(name, [])) < _TRIED:
                new[name].append(row)
        if new:
            reason = self._why_not(new)
            self._works |= dict.fromkeys(new, reason is None)
            if reason is not None:
                logger.info("rows are padded to one length: %s", reason)
        return all(self._works[name] for name, _ in rows) and self._are_short(rows)

    def _are_short(self, rows: Sequence[Row]) -> bool:
        """Say whether each token of ``rows`` sees all before it, virtual tokens too, and is turned as in any row."""
        if self._longest is None:
            return True
        return max(len(row.input_ids) + self._model.adapter(name).virtual_tokens for name, row in rows) <= self._longest

    def saves(self, names: Sequence[str], rows: Sequence[Encoded]) -> bool:
        """Say whether ``rows``, those of the adapters ``names``, have enough in front of them that is computed once."""
        if any(_embeddings(self._model.adapter(name)) is not None for name in set(names)):
            return True
        shared = (self._shared(own) * (len(own) - 1) for own in _of_adapters(names, rows).values())
        return sum(shared) >= _LEAST_SAVED * sum(len(row.input_ids) for row in rows)

    @contextmanager
    def losses(self, names: Sequence[str], rows: Sequence[Encoded], forward: Forward | None = None) -> Iterator[Tensor]:
        """Yield the loss [B] of each row; its backward pass belongs inside the block.

        Args:
            names: the adapter of each row; those of one adapter side by side.
            rows: the rows.
            forward: what to call in the model's place (a wrapper around it).
        """
        sequences = self._sequences(names, rows)
        with self._routed(sequences):
            yield self._losses(sequences, self._layout(sequences), forward)

    @contextmanager
    def _routed(self, sequences: Sequence[_Sequence]) -> Iterator[None]:
        """Route each token of ``sequences`` inside the block."""
        of_tokens = [sequence.adapter for sequence in sequences for _ in sequence.ids]
        with self._model.route(of_tokens), self._model.without_virtual_tokens(), self._model.own_attention():
            yield

    def _sequences(self, names: Sequence[str], rows: Sequence[Encoded]) -> list[_Sequence]:
        """Return what lies one behind the other: for each adapter what stands in front of its rows, and the rows."""
        laid: list[_Sequence] = []
        for name, own in _of_adapters(names, rows).items():
            front, shared = None, self._shared(own)
            if _embeddings(self._model.adapter(name)) is not None:
                virtual = self._model.adapter(name).virtual_tokens
                laid.append(_Sequence(name, [_ANY_TOKEN] * virtual, [IGNORED] * virtual, is_virtual=True))
                front = len(laid) - 1
            if shared:
                first = next(iter(own.values()))
                laid.append(_Sequence(name, first.input_ids[:shared], [IGNORED] * shared, front))
                front = len(laid) - 1
            for place, row in own.items():
                labels = [*row.labels[1 + shared :], IGNORED]
                laid.append(_Sequence(name, row.input_ids[shared:], labels, front, place))
        return laid

    def _shared(self, rows: Mapping[int, Encoded]) -> int:
        """Return how many tokens the ``rows`` of one adapter begin with alike, and have computed once."""
        return shared_length(list(rows.values())) if self._shares_tokens and len(rows) > 1 else 0

    def _layout(self, sequences: Sequence[_Sequence]) -> RowLayout:
        lengths = [len(sequence.ids) for sequence in sequences]
        fronts = {place: s.front for place, s in enumerate(sequences) if s.front is not None}
        buckets = split_step(range(len(lengths)), lengths, max_rows=None, max_tokens=None)
        layout = RowLayout(lengths, buckets, self._model.device, fronts)
        if fronts or not has_kernel(self._model.device, self._model.model.dtype):
            layout.padded()  # now, because a compiled block would break there
        return layout

    def _losses(self, sequences: Sequence[_Sequence], layout: RowLayout, forward: Forward | None = None) -> Tensor:
        device = self._model.device
        labels = torch.tensor([label for sequence in sequences for label in sequence.labels])
        inputs = {**self._tokens(sequences), "position_ids": layout.positions[:, None], ROW_LAYOUT: layout}
        of_tokens = self._by_token(inputs, labels[:, None], forward)
        of_sequences = of_tokens.new_zeros(len(sequences)).index_add(0, layout.rows, of_tokens)
        places = {s.row: place for place, s in enumerate(sequences) if s.row is not None}
        return of_sequences[uploaded(torch.tensor([places[row] for row in range(len(places))]), device)]

    def _tokens(self, sequences: Sequence[_Sequence]) -> dict[str, Tensor]:
        """Return what the model takes: token ids [N, 1], or embeddings [N, 1, d] where some are of virtual tokens."""
        device = self._model.device
        ids = uploaded(torch.tensor([token for sequence in sequences for token in sequence.ids]), device)[:, None]
        owners = [sequence.adapter for sequence in sequences if sequence.is_virtual]
        if not owners:
            return {"input_ids": ids}
        looked_up = input_embeddings(self._model.model)(ids)
        are_virtual = torch.tensor([sequence.is_virtual for sequence in sequences for _ in sequence.ids])
        sources = (_embeddings(self._model.adapter(name)) for name in owners)
        virtual = torch.cat([source.embeddings().to(looked_up) for source in sources if source is not None])
        places = uploaded(are_virtual.nonzero()[:, 0], device)
        return {"inputs_embeds": looked_up.index_copy(0, places, virtual[:, None])}

    def _watched(self, names: Sequence[str], rows: Sequence[Encoded]) -> Tensor:
        """Return the loss [B] of each row.

        Raises:
            NotByRowError: an attention of the model does not know where rows lie.
        """
        sequences = self._sequences(names, rows)
        layout = self._layout(sequences)
        layout.attended = []
        with self._routed(sequences):
            found = self._losses(sequences, layout)
        if len(layout.attended) < len(self._model.base.structure.attentions):
            raise NotByRowError(f"{type(self._model.model).__name__} attends elsewhere")
        self._longest = _least(self._longest, layout.window)
        return found

    def _why_not(self, new: Mapping[str, Sequence[Encoded]]) -> str | None:
        """Return why rows cannot lie end to end; None if they can."""
        base, structure = self._model.model, self._model.base.structure
        if not structure.is_decoder_lm or not structure.attends_only or not takes(base, "position_ids"):
            return "the model does not read left to right by attention alone, or cannot be told positions"
        unfit = next((name for name in new if not _acts_on_tokens(self._model.adapter(name))), None)
        if unfit is not None:
            return f"'{unfit}' does more than change what single tokens become"
        names, rows = [name for name, own in new.items() for _ in own], [row for own in new.values() for row in own]
        batch = collate(rows, pad_token_id=0, device=self._model.device)
        labels = batch.pop("labels")
        device = base.device
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            before = random_numbers(device)
            with self._model.route(names), self._model.answers_from(answer_starts(rows)):
                padded = self._objective(batch, labels)
            if not torch.equal(before, random_numbers(device)):
                return "each row draws a dropout of its own"
            try:
                found = self._watched(names, rows)
            except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError):
                return f"{type(base).__name__} cannot be told where rows begin"
        apart = float((padded - found).abs().sum() / padded.abs().sum().clamp(min=1e-6))
        allowed = _TOLERANCE.get(base.dtype, _ROUGH)
        return None if apart <= allowed else f"the loss would differ by {apart:.1%}"


def _least(*lengths: int | None) -> int | None:
    """Return the least of ``lengths``, of which None is any number."""
    return min((length for length in lengths if length is not None), default=None)


def _of_adapters(names: Sequence[str], rows: Sequence[Encoded]) -> dict[str, dict[int, Encoded]]:
    """Return the rows of each adapter, by their place."""
    found: dict[str, dict[int, Encoded]] = {}
    for place, (name, row) in enumerate(zip(names, rows, strict=True)):
        found.setdefault(name, {})[place] = row
    return found


def _acts_on_tokens(adapter: Adapter) -> bool:
    """Say whether the adapter does nothing but change what single tokens become, and stand in front of its rows."""
    if _embeddings(adapter) is not None:
        return True
    alone = all(isinstance(slot, OutputSlot) and slot.reads is None for slot in adapter.slots.values())
    return alone and adapter.source is None and adapter.placement is None


def _embeddings(adapter: Adapter) -> EmbeddingSource | None:
    """Return what gives the embeddings of the adapter's virtual tokens; None where it has none in front of its rows."""
    source = adapter.source
    in_front = all(isinstance(slot, SourcedSlot) and not slot.answer_only for slot in adapter.slots.values())
    return source if isinstance(source, EmbeddingSource) and adapter.placement is None and in_front else None
