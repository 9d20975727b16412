"""Tokens that all rows of a batch begin with, computed once: a chat template's opening, an instruction.

In a model that reads left to right they do not see what follows, so what its layers make of them is the same for every
row. They go through the model as one row, with gradients, and their keys and values stand in a cache in front of the
rows, as in generation. The loss is the same, and so is its gradient. That it is, is measured on the first batch. Only
rotary embeddings that depend on the length of what is read would differ in a later one: there, long rows stay whole.

Shapes: B rows, T tokens of the longest, P tokens that all begin with.
"""

import logging
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, final

import torch
from torch import Tensor
from transformers import DynamicCache

from petune.adapted_model import AdaptedModel
from petune.backbone.arguments import takes
from petune.backbone.rope_scaling import unscaled_length
from petune.data.batching import answer_starts
from petune.data.encoding import Encoded
from petune.kernels.upload import uploaded
from petune.tasks.task import Objective

logger = logging.getLogger("petune")

LEAST_SAVED = 128
"""Tokens that must be saved: about what one more pass costs in itself."""
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
_ROUGH = 5e-2

Batch = tuple[Mapping[str, Any], Tensor]
"""What the model takes, and the labels."""


def shared_length(rows: Sequence[Encoded]) -> int:
    """Return P: how many tokens ``rows`` begin with alike, and that none of them has to predict anything with.

    The token before the first label predicts it, so it and what follows belong to each row alone.
    """
    most = min(answer_starts(rows)) - 1
    alike = takewhile(lambda column: len(set(column)) == 1, zip(*(row.input_ids for row in rows), strict=False))
    return max(0, min(most, sum(1 for _ in alike)))


@final
class SharedPrefix:
    """Cuts what all rows begin with off a batch, and puts it in front as keys and values.

    Args:
        model: the base with the adapters attached.
        objective: what training minimises.
    """

    def __init__(self, model: AdaptedModel, objective: Objective) -> None:
        self._model = model
        self._objective = objective
        self._longest = unscaled_length(model.model)
        self._works: dict[str, bool] = {}

    def cut(self, names: Sequence[str], rows: Sequence[Encoded], inputs: Mapping[str, Tensor], labels: Tensor) -> Batch:
        """Return the batch behind what its rows begin with, or the batch as it is where that saves nothing.

        Call it where the rows are routed; the graph of the prefix belongs to the loss of the batch.

        Args:
            names: the adapter of each row.
            rows: the rows.
            inputs: the same, padded on the right [B, T].
            labels: [B, T].
        """
        length = shared_length(rows)
        adapters = list(dict.fromkeys(names))
        if not self.pays(names, rows, length):
            return inputs, labels
        for name in adapters:
            if name not in self._works:
                self._works[name] = self._probe(name, names, rows, inputs, labels, length)
        if not all(self._works[name] for name in adapters):
            return inputs, labels
        return self._behind(names, inputs, labels, length)

    def pays(self, names: Sequence[str], rows: Sequence[Encoded], length: int | None = None) -> bool:
        """Say whether it saves enough to cut off what ``rows``, those of the adapters ``names``, begin with."""
        adapters = set(names)
        length = shared_length(rows) if length is None else length
        refused = any(self._works.get(name) is False for name in adapters) or self._recomputes_blocks()
        refused = refused or not self._turns_alike(names, rows)
        return not refused and (len(rows) - len(adapters)) * length >= LEAST_SAVED

    def _turns_alike(self, names: Sequence[str], rows: Sequence[Encoded]) -> bool:
        """Say whether rotary embeddings turn tokens of ``rows`` by the same angles wherever they are cut."""
        if self._longest is None:
            return True
        lengths = (len(r.input_ids) + self._model.adapter(n).virtual_tokens for n, r in zip(names, rows, strict=True))
        return max(lengths) <= self._longest

    def _probe(
        self,
        name: str,
        names: Sequence[str],
        rows: Sequence[Encoded],
        inputs: Mapping[str, Tensor],
        labels: Tensor,
        length: int,
    ) -> bool:
        """Say whether it works with the adapter called ``name``: measured on its own rows of the batch."""
        places = [place for place, owner in enumerate(names) if owner == name]
        own = [name] * len(places)
        batch = {key: value[places] for key, value in inputs.items()}
        starts = answer_starts([rows[place] for place in places])
        with self._model.route(own), self._model.answers_from(starts):
            reason = self._why_not(own, batch, labels[places], length)
        if reason is not None:
            logger.info("what all rows begin with is computed for each of them: %s", reason)
        return reason is None

    def _behind(self, names: Sequence[str], inputs: Mapping[str, Tensor], labels: Tensor, length: int) -> Batch:
        """Return the batch without its first P tokens, which stand in a cache."""
        adapters = list(dict.fromkeys(names))
        cache = self._cache(adapters, inputs["input_ids"][:1, :length])
        if len(adapters) == 1:
            cache.batch_repeat_interleave(len(names))
        else:
            owners = torch.tensor([adapters.index(name) for name in names])
            cache.batch_select_indices(uploaded(owners, inputs["input_ids"].device))
        # A mask covers what is in the cache too; everything else is of the tokens that are read.
        rest = {key: value if key == "attention_mask" else value[:, length:] for key, value in inputs.items()}
        return {**rest, "past_key_values": cache}, labels[:, length:]

    def _cache(self, adapters: Sequence[str], prefix: Tensor) -> DynamicCache:
        """Return the keys and values of ``prefix`` [1, P] at every layer, a row for each of ``adapters``."""
        base = self._model.model
        few = {"logits_to_keep": 1} if takes(base, "logits_to_keep") else {}
        behind = [prefix.shape[1] + 1] * len(adapters)
        with self._model.route(adapters), self._model.answers_from(behind):
            cache = base(input_ids=prefix.expand(len(adapters), -1), use_cache=True, **few).past_key_values
        assert isinstance(cache, DynamicCache)
        return cache

    def _recomputes_blocks(self) -> bool:
        """Say whether blocks are computed again: a cache would take their keys and values in twice."""
        blocks = map(self._model.model.get_submodule, self._model.base.structure.blocks)
        return any(block.__dict__.get("gradient_checkpointing") for block in blocks)

    def _why_not(self, names: Sequence[str], inputs: Mapping[str, Tensor], labels: Tensor, length: int) -> str | None:
        """Return why the model cannot go on behind a cache of what its rows begin with; None if it can."""
        base = self._model.model
        if not self._model.base.structure.is_decoder_lm or not takes(base, "past_key_values"):
            return "the model does not read left to right, or keeps no keys and values"
        if any(self._model.adapter(name).placement is not None for name in set(names)):
            return "the adapter's virtual tokens stand among them"
        device = base.device
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            before = random_numbers(device)
            whole = self._objective(inputs, labels)
            if not torch.equal(before, random_numbers(device)):
                return "each row draws a dropout of its own"
            try:
                shared = self._objective(*self._behind(names, inputs, labels, length))
            except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError):
                return f"{type(base).__name__} does not go on behind a cache"
        apart = float((whole - shared).abs().sum() / whole.abs().sum().clamp(min=1e-6))
        allowed = _TOLERANCE.get(base.dtype, _ROUGH)
        return None if apart <= allowed else f"the loss would differ by {apart:.1%}"


def random_numbers(device: torch.device) -> Tensor:
    """Return the state of the generator that a pass on ``device`` draws from."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
