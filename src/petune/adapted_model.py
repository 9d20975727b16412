"""A base model with adapters attached."""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from petune.adapter import Adapter
from petune.backbone.base import Base
from petune.backbone.quantization import unpack
from petune.backbone.tokenizer import beginning_token_id
from petune.errors import ConfigError, nearest
from petune.merging import Merges
from petune.sites.embeddings import vocabulary_size
from petune.sites.last_block import tokens_read_alone
from petune.sites.placement import Insertion, Side, insert_into_batch
from petune.sites.routing import Route, Stack, stacks_of
from petune.sites.sites import Sites
from petune.sites.weights import WeightSlot
from petune.stacking import require_rows_apart, require_stackable


@final
class AdaptedModel(nn.Module):
    """A base model with adapters attached; rows of a batch may go through different ones.

    Attaching plugs slots into the sites of the base and changes none of its weights. Calls of ``model`` or
    ``model.generate`` go through the active adapters until :meth:`route` says otherwise.
    """

    def __init__(self, base: Base, adapters: Sequence[Adapter] = ()) -> None:
        super().__init__()
        self.base = base
        self._model: PreTrainedModel = base.model
        self.adapters: dict[str, Adapter] = {}
        self._registered = nn.ModuleList()  # a ModuleDict would forbid names such as "v1.2" and "keys"
        self._sites = Sites(base.model, [head.model for head in base.heads.values()])
        # Adapters act as long as this object lives: once it is gone, the base is as it was.
        weakref.finalize(self, self._sites.clear).atexit = False
        self._merges = Merges(base.model)
        self._active: Stack = ()
        self.eval()
        for adapter in adapters:
            self.attach(adapter)

    @property
    def model(self) -> PreTrainedModel:
        """The transformers model, to be called with the active adapters.

        Raises:
            ConfigError: another AdaptedModel has adapters on the same base, which would answer instead.
        """
        self._sites.check()
        return self._model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base's tokenizer."""
        return self.base.tokenizer

    @property
    def device(self) -> torch.device:
        """Where the base lies."""
        return self.base.device

    @property
    def active(self) -> Stack:
        """The adapters that every row goes through unless it is routed otherwise."""
        return self._active

    @property
    def merged(self) -> Stack:
        """The adapters that are merged into the base, in order."""
        return self._merges.names

    @property
    def virtual_tokens(self) -> int:
        """How many of the model's positions the active adapters take in front of the input."""
        return sum(self.adapters[name].virtual_tokens for name in self._active)

    def forward(self, **inputs: Any) -> Any:
        """Run the base, adapters included; takes and returns what the transformers model does.

        Raises:
            ConfigError: the batch has other rows than :meth:`route` was told of.
        """
        given = (inputs[name] for name in ("input_ids", "inputs_embeds") if inputs.get(name) is not None)
        found, expected = next(map(len, given), 0), self._sites.routing.route.num_rows
        if found and expected and found != expected:
            raise ConfigError(
                f"route(...) names the adapters of {expected} rows, and the batch has {found}; name each row's"
            )
        return self.model(**inputs)

    def adapter(self, name: str) -> Adapter:
        """Return the attached adapter called ``name``.

        Raises:
            ConfigError: no such adapter is attached.
        """
        if name not in self.adapters:
            attached = ", ".join(self.adapters) or "none"
            raise ConfigError(f"no adapter '{name}' is attached; attached: {attached}.{nearest(name, self.adapters)}")
        return self.adapters[name]

    def attach(self, adapter: Adapter, *, active: bool = True) -> None:
        """Plug ``adapter`` into the base, and let all rows go through it unless ``active`` is false.

        Raises:
            ConfigError: an adapter of that name is attached already, it was made for another base, or it cannot share
                this one with the adapters that are attached to it.
        """
        if adapter.name in self.adapters:
            raise ConfigError(
                f"an adapter called '{adapter.name}' is attached already; detach it or choose another name"
            )
        alone = next((a for a in (adapter, *self.adapters.values()) if not a.method.shares_batch), None)
        if self.adapters and alone is not None:
            raise ConfigError(
                f"{alone.method.title} ('{alone.name}') replaces weights of the base, so it cannot be attached"
                " beside other adapters; detach the others first"
            )
        places = {path for path, _ in (*self.model.named_modules(), *self._model.named_parameters())}
        strange = next((path for path in adapter.slots if path not in places), None)
        if strange is not None:
            raise ConfigError(
                f"'{adapter.name}' was made for another base: this one has no '{strange}'.{nearest(strange, places)}"
            )
        adapter.to(self.base.device)
        self._sites.plug(adapter.name, adapter.slots, adapter.source)
        self.adapters[adapter.name] = adapter
        self._registered = nn.ModuleList(self.adapters.values())
        adapter.train(self.training)
        if active:
            self.activate(adapter.name)

    def detach(self, name: str) -> Adapter:
        """Unplug the adapter called ``name`` and return it; the base is as it was before, bit for bit."""
        adapter = self.adapter(name)
        if name in self.merged:
            self.unmerge(name)
        self._sites.unplug(name)
        del self.adapters[name]
        self._registered = nn.ModuleList(self.adapters.values())
        self.activate(*(n for n in self._active if n != name))
        return adapter

    def activate(self, *names: str) -> None:
        """Send every row through the adapters called ``names``, in order; through none without names.

        Raises:
            ConfigError: no such adapter is attached, it is merged and so acts already, or one of them would undo what
                another does.
        """
        require_stackable([self.adapter(name) for name in names])
        merged = next((name for name in names if name in self.merged), None)
        if merged is not None:
            raise ConfigError(f"'{merged}' is merged, so every row goes through it already; call unmerge first")
        self._go_through(names)

    def _go_through(self, names: Stack) -> None:
        self._active = names
        self._sites.routing.set_default(names)

    def route(self, rows: Sequence[str | Sequence[str] | None]) -> AbstractContextManager[None]:
        """Send row i of the batch through ``rows[i]``: an adapter, several in order, or None for the bare base.

        A context manager. Keep a backward pass inside it where gradient checkpointing recomputes the forward pass.
        The batch must have as many rows.

        Raises:
            ConfigError: a name is not attached, a merged adapter would be routed around, one adapter of a row would
                undo what another does, or rows go through different ones that cannot be told apart where they act.
        """
        stacks = stacks_of(rows)
        for stack in set(stacks):
            require_stackable([self.adapter(name) for name in stack])
        if len(set(stacks)) > 1:
            named = dict.fromkeys(name for stack in stacks for name in stack)
            require_rows_apart([self.adapter(name) for name in named], self.base.structure)
        if self.merged:
            raise ConfigError("rows cannot be routed while an adapter is merged; call unmerge first")
        for name, adapter in self.adapters.items():
            if not adapter.method.shares_batch and any(name not in stack for stack in stacks):
                raise ConfigError(f"'{name}' replaces weights of the base: every row must go through it")
        return self._sites.use(Route.of(stacks))

    def without_virtual_tokens(self) -> AbstractContextManager[None]:
        """Leave virtual tokens away inside the block, at the attentions and among the tokens: the caller adds them.

        A context manager, to be used inside :meth:`route`.
        """
        return self._sites.routing.without_virtual_tokens()

    @property
    def insertions(self) -> tuple[Insertion, ...]:
        """The virtual tokens that the active adapters have written into rows."""
        return self._insertions(self._active)

    def insert_virtual_tokens(
        self,
        batch: Mapping[str, Tensor],
        rows: Sequence[str | Sequence[str] | None] | None = None,
        padding_side: Side | None = None,
    ) -> dict[str, Tensor]:
        """Return a padded batch with the virtual tokens that adapters want among the tokens of a row.

        Adapters whose virtual tokens come before everything mostly need none; their rows stay as they are.

        Args:
            batch: ``input_ids`` [B, T]; perhaps ``attention_mask`` and ``labels`` of that shape.
            rows: the adapters of each row, as in :meth:`route`; by default the active ones.
            padding_side: where rows are filled up in a batch without padding, which has a side otherwise. By default on
                the left in a decoder, which writes on behind its rows; give right where GPT-2 is called without
                ``position_ids`` rather than through ``generate``.

        Raises:
            ConfigError: the virtual tokens stand in a template, rows are written in several versions, or the batch
                holds something else.
        """
        stacks = [self._active] * len(batch.get("input_ids", ())) if rows is None else stacks_of(rows)
        pad, beginning = self._model.config.get_text_config().pad_token_id, None
        if self.base.has_tokenizer:
            pad, beginning = self.tokenizer.pad_token_id, beginning_token_id(self.tokenizer)
        return insert_into_batch(
            batch,
            [self._insertions(stack) for stack in stacks],
            bos_token_id=beginning,
            pad_token_id=pad if isinstance(pad, int) else 0,  # masked, so any token would do
            padding_side=padding_side or ("left" if self.base.structure.is_decoder_lm else "right"),
        )

    def _insertions(self, stack: Stack) -> tuple[Insertion, ...]:
        placements = [p for p in (self.adapter(name).placement for name in stack) if p is not None]
        if len(placements) > 1 and any(placement.versions > 1 for placement in placements):
            raise ConfigError(
                f"of {', '.join(stack)}, one writes rows in several versions, so no other can write virtual tokens into"
                " them: use them one at a time"
            )
        found, first = [], vocabulary_size(self._model) if placements else 0
        for placement in placements:
            found.append(Insertion(placement, first))
            first += placement.num_embeddings
        # What comes before everything is written last, so that no other is written before it.
        return tuple(sorted(found, key=lambda insertion: insertion.placement.before_special))

    def answers_from(self, starts: Sequence[int]) -> AbstractContextManager[None]:
        """Say at which index of the batch each row's answer begins, for adapters that are hidden from what is before.

        A context manager. Padding and tokens in a cache count; keep a backward pass inside it, as with :meth:`route`.
        """
        return self._sites.routing.answers_from(starts)

    def bake(self, name: str) -> None:
        """Drop what the adapter called ``name`` needs for training alone, such as an encoder of its virtual tokens.

        Its outputs stay the same. Saving does the same to what it writes, and :func:`petune.train` to what it returns.
        """
        adapter = self.adapter(name)
        baked = adapter.baked()
        if baked is adapter:
            return
        active = self._active
        self.detach(name)
        self.attach(baked, active=False)
        self.activate(*active)

    @contextmanager
    def fast_training(self, *, compiled: bool = False) -> Iterator[None]:
        """Compute the base in the way that trains fastest inside the block; results are the same up to rounding.

        Args:
            compiled: whether its blocks are compiled.
        """
        read_alone = tokens_read_alone(self.model, self.base.structure, self._sites.reads_across)
        with self._sites.fast_training(compiled=compiled), read_alone:
            yield

    def fast_inference(self) -> AbstractContextManager[None]:
        """Compute attention in the way that is fastest without gradients inside the block; results are the same."""
        return self._sites.fast_inference()

    def own_attention(self) -> AbstractContextManager[None]:
        """Send attention through ours inside the block, which knows of rows end to end; results are the same."""
        return self._sites.own_attention()

    def plugged_into(self, module: nn.Module) -> bool:
        """Say whether an adapter changes the output of ``module``."""
        return self._sites.in_use(module)

    def reads_beyond(self, path: str) -> bool:
        """Say whether an adapter in the sub-module at ``path`` reads what one outside of that is given.

        Such a sub-module cannot be computed again alone.
        """
        return self._sites.reads_beyond(path)

    @torch.no_grad()
    def merge(self, name: str) -> None:
        """Add the adapter's change to the base's weights, so that it costs nothing to run.

        The sum is made in fp32 (float64 inputs keep theirs) and rounded to the base's precision. Weights set aside
        meanwhile cost as much memory as the merged ones; :meth:`unmerge` brings them back bit for bit.

        Raises:
            ConfigError: the method, or the place it is plugged into, cannot be merged.
        """
        adapter = self.adapter(name)
        self._merges.add(adapter, was_active=name in self._active)
        self._sites.base_changed(self._merges.set_aside)
        self.activate(*(n for n in self._active if n != name))

    def unmerge(self, name: str) -> None:
        """Give the base its own weights back, bit for bit, and let the adapter act as before merging.

        Raises:
            ConfigError: the adapter is not merged.
        """
        self.adapter(name)
        was_active = self._merges.take_back(name)
        self._sites.base_changed(self._merges.set_aside)
        if was_active:
            self._go_through((*self._active, name))

    @torch.no_grad()
    def keep_merged(self) -> list[Adapter]:
        """Make every merge final: the base keeps the sums; return the merged adapters, detached."""
        names = self.merged
        learned = {
            path: slot.master.detach().clone()
            for name in names
            for path, slot in self.adapters[name].slots.items()
            if isinstance(slot, WeightSlot)
        }
        self._merges.forget()  # what was set aside would come back on detaching
        self._sites.base_changed(self._merges.set_aside)
        adapters = [self.detach(name) for name in names]
        unpack(self._model, [self._model.get_submodule(path.rpartition(".")[0]) for path in learned])
        for path, value in learned.items():
            self._model.get_parameter(path).copy_(value)
        return adapters

    def parameter_summary(self, name: str | None = None) -> str:
        """Return the line everybody knows, of adapter ``name`` or of all: parameters to train, all, and the share."""
        adapters = list(self.adapters.values()) if name is None else [self.adapter(name)]
        own = {id(p): p for a in adapters for p in a.parameters()}
        trainable = sum(p.numel() for p in own.values() if p.requires_grad)
        total = sum(p.numel() for p in self._model.parameters())
        total += sum(p.numel() for p in own.values()) if all(a.method.shares_batch for a in adapters) else 0
        return f"trainable params: {trainable:,} || all params: {total:,} || trainable%: {100 * trainable / total:.4f}"
