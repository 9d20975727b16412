"""Rows of several adapters laid end to end, so that no product is spent on padding and one pass takes them all.

To the model each token is a row of one token at its own position; an attention of ours lets it see its own row. This
saves most where steps are small: rows of unlike lengths need not be split into several passes over the weights. That
the loss is the same is measured on the first batch.

Shapes: B rows, N tokens of all of them.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter
from petune.backbone.arguments import takes
from petune.data.batching import answer_starts, collate, split_step
from petune.data.encoding import IGNORED, Encoded
from petune.kernels.row_attention import ROW_LAYOUT, NotByRowError, RowLayout
from petune.kernels.upload import uploaded
from petune.sites.head import Forward, LabelLoss
from petune.sites.output import OutputSlot
from petune.training.shared_prefix import random_numbers

logger = logging.getLogger("petune")

_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
_ROUGH = 2e-2
Row = tuple[str, Encoded]
"""A row, and the name of its adapter."""


@final
class Unpadded:
    """Runs a causal language model on rows end to end.

    Args:
        model: the base with the adapters attached.
        objective: what training minimises, on padded rows.
    """

    def __init__(self, model: AdaptedModel, objective: LabelLoss) -> None:
        self._model = model
        self._objective = objective
        self._by_token = LabelLoss(model.model, model.plugged_into, next_token=False)
        self._works: dict[str, bool] = {}

    def suits(self, rows: Sequence[Row]) -> bool:
        """Say whether the adapters of ``rows`` can be trained so; a row of each new one is tried.

        Args:
            rows: the next rows of every adapter.
        """
        new = {name: row for name, row in rows if name not in self._works}
        if new:
            reason = self._why_not(new)
            self._works |= dict.fromkeys(new, reason is None)
            if reason is not None:
                logger.info("rows of several adapters are padded to one length: %s", reason)
        return all(self._works[name] for name, _ in rows)

    def losses(self, names: Sequence[str], rows: Sequence[Encoded], forward: Forward | None = None) -> Tensor:
        """Return the loss [B] of each row; it and its backward pass belong inside :meth:`routed`.

        Args:
            names: the adapter of each row; those of one adapter side by side.
            rows: the rows.
            forward: what to call in the model's place (a wrapper around it).
        """
        device, lengths = self._model.device, [len(row.input_ids) for row in rows]
        buckets = split_step(range(len(rows)), lengths, max_rows=None, max_tokens=None)
        layout = RowLayout(lengths, buckets, device)
        ids = uploaded(torch.tensor([token for row in rows for token in row.input_ids]), device)
        labels = torch.tensor([label for row in rows for label in (*row.labels[1:], IGNORED)])
        inputs = {"input_ids": ids[:, None], "position_ids": layout.positions[:, None], ROW_LAYOUT: layout}
        of_tokens = self._by_token(inputs, labels[:, None], forward)  # type: ignore[arg-type]
        if len(layout.attended) < len(self._model.base.structure.attentions):
            raise NotByRowError(f"{type(self._model.model).__name__} attends elsewhere")
        return of_tokens.new_zeros(len(rows)).index_add(0, layout.rows, of_tokens)

    @contextmanager
    def routed(self, names: Sequence[str], rows: Sequence[Encoded]) -> Iterator[None]:
        """Route each token of ``rows``, which are of the adapters ``names``, inside the block."""
        of_tokens = [name for name, row in zip(names, rows, strict=True) for _ in row.input_ids]
        with self._model.route(of_tokens), self._model.own_attention():
            yield

    def _why_not(self, new: dict[str, Encoded]) -> str | None:
        """Return why rows cannot lie end to end; None if they can."""
        base, structure = self._model.model, self._model.base.structure
        if not structure.is_decoder_lm or not structure.attentions or not takes(base, "position_ids"):
            return "the model does not read left to right, or cannot be told positions"
        unfit = next((name for name in new if not _acts_on_tokens(self._model.adapter(name))), None)
        if unfit is not None:
            return f"'{unfit}' does more than change what single tokens become"
        names, rows = list(new), list(new.values())
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
                with self.routed(names, rows):
                    found = self.losses(names, rows)
            except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError):
                return f"{type(base).__name__} cannot be told where rows begin"
        apart = float((padded - found).abs().sum() / padded.abs().sum().clamp(min=1e-6))
        allowed = _TOLERANCE.get(base.dtype, _ROUGH)
        return None if apart <= allowed else f"the loss would differ by {apart:.1%}"


def _acts_on_tokens(adapter: Adapter) -> bool:
    slots = adapter.slots.values()
    alone = all(isinstance(slot, OutputSlot) and slot.reads is None for slot in slots)
    return alone and adapter.source is None and adapter.placement is None
