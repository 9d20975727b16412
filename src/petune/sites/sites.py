"""Every site of one model, made where an adapter asks for it."""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import final

from torch import Tensor, nn
from transformers import PreTrainedModel

from petune.backbone.structure import body_of
from petune.errors import ConfigError
from petune.kernels.attention import products_without_gradients
from petune.kernels.wide_products import wide_products
from petune.sites.attention import AttentionSites, AttentionSlot, Source
from petune.sites.embeddings import EmbeddingSite, EmbeddingSlot, EmbeddingSource
from petune.sites.gated import GatedSlot
from petune.sites.host import Host
from petune.sites.output import OutputSite, OutputSlot
from petune.sites.own_maths import own_maths
from petune.sites.routing import Route, Routing
from petune.sites.row_axes import rows_second
from petune.sites.virtual_tokens import VirtualTokens
from petune.sites.weights import WeightSite, WeightSlot

Slot = OutputSlot | WeightSlot | AttentionSlot | GatedSlot | EmbeddingSlot
"""What an adapter learned at one place; its class says which site it belongs to."""

_users: "weakref.WeakKeyDictionary[nn.Module, weakref.ref[Sites]]" = weakref.WeakKeyDictionary()


@final
class Sites:
    """The sites of ``model`` that are in use, by path (of a sub-module, or of a parameter for weights).

    One object at a time plugs into a model: slots that another one plugged in would act unseen.

    Args:
        model: the base.
        headed: models that call the body of the base with other heads.
    """

    def __init__(self, model: PreTrainedModel, headed: Sequence[PreTrainedModel] = ()) -> None:
        self.routing = Routing.of(model)
        self._model = model
        self._outputs: dict[str, OutputSite] = {}
        self._weights: dict[str, WeightSite] = {}
        self._attention = AttentionSites(model, self.routing)
        self._virtual_tokens = VirtualTokens(model, self.routing, self._attention, headed)
        self._embeddings = EmbeddingSite(model, self.routing, headed)
        self._plugged: dict[str, Mapping[str, Slot]] = {}
        self._bare: dict[str, Tensor] = {}

    def check(self) -> None:
        """Make sure that nobody else's slots would act.

        Raises:
            ConfigError: another object has slots plugged into the model.
        """
        holder = _users.get(self._model, lambda: None)()
        if holder is not None and holder is not self and holder._plugged:
            raise ConfigError(
                f"another AdaptedModel has adapters attached to this base ({', '.join(holder._plugged)}): use that one,"
                " detach them first, or load the base again"
            )

    def plug(self, name: str, slots: Mapping[str, Slot], source: Source | None = None) -> None:
        """Plug the slots of adapter ``name`` in, each at its path; where one cannot be, none stays.

        Raises:
            ConfigError: another object has slots plugged into the model.
            BaseModelError: the model's attention cannot be reached.
        """
        self.check()
        _users[self._model] = weakref.ref(self)
        done: dict[str, Slot] = {}
        try:
            for path, slot in slots.items():
                self._plug(name, path, slot, source)
                done[path] = slot
        except BaseException:
            for path, slot in done.items():
                self._unplug(name, path, slot)
            raise
        self._plugged[name] = slots
        attention = {path: slot for path, slot in slots.items() if isinstance(slot, AttentionSlot)}
        if attention:
            body = set(body_of(self._model).modules())
            changes_base = any(
                isinstance(s, OutputSlot) and self._model.get_submodule(p) in body for p, s in slots.items()
            )
            self._virtual_tokens.plug(name, attention, source, changes_base=changes_base)

    def unplug(self, name: str) -> None:
        """Remove the slots of adapter ``name``; unused sites disappear."""
        for path, slot in self._plugged.pop(name).items():
            self._unplug(name, path, slot)
        self._virtual_tokens.unplug(name)

    def clear(self) -> None:
        """Unplug everything."""
        if not self._plugged:
            return  # rows go through somebody else's adapters by now, or through none
        for name in tuple(self._plugged):
            self.unplug(name)
        self.routing.set_default(())

    @contextmanager
    def use(self, route: Route) -> Iterator[None]:
        """Apply ``route`` inside the block, a backward pass in it included; the former one returns afterwards."""
        paths = rows_second(self._model) if route.num_rows and self._plugged else ()
        if paths:
            second = {self._model.get_submodule(path) for path in paths}
            self._embeddings.tell_axes(second)
            for site in self._outputs.values():
                site.tell_axes(second)
        with self.routing.use(route), self._attention.held_for(route):
            yield

    @contextmanager
    def fast_training(self, *, compiled: bool = False) -> Iterator[None]:
        """Train with our attention and our own maths inside the block, where the model allows it.

        Args:
            compiled: whether blocks are compiled, which does by itself what our own maths is for.
        """
        with self.fast_inference(), nullcontext() if compiled else own_maths(self._model):
            yield

    @contextmanager
    def fast_inference(self) -> Iterator[None]:
        """Run with our attention and wide products inside the block, where model and device allow it and gain by it."""
        # Kernels of other devices want the mask left out where it can be; ours has it written out.
        if self._model.device.type != "cpu":
            yield
            return
        with self._attention.held(), products_without_gradients(), wide_products(self._model):
            yield

    @contextmanager
    def own_attention(self) -> Iterator[None]:
        """Run with our attention inside the block, whatever the device; where the model does not allow it, its own."""
        with self._attention.held():
            yield

    def base_changed(self, bare: Mapping[str, Tensor]) -> None:
        """Drop what was computed from the base's weights; call it when they change.

        Args:
            bare: the base's own parameters, by path, in place of which merged ones stand from now on.
        """
        self._bare.clear()
        self._bare.update(bare)
        self._virtual_tokens.forget()

    def in_use(self, module: nn.Module) -> bool:
        """Say whether a slot is plugged into the output of ``module``."""
        return any(site.module is module for site in self._outputs.values())

    def reads_beyond(self, path: str) -> bool:
        """Say whether a slot in the sub-module at ``path`` reads what a sub-module outside of that is given."""
        inside = [site for own, site in self._outputs.items() if _lies_in(own, path)]
        slots = [slot for site in inside for slot in site.slots.values()]
        return any(slot.reads is not None and not _lies_in(slot.reads, path) for slot in slots)

    def reads_across(self, path: str) -> bool:
        """Say whether a slot outside the sub-module at ``path`` reads what one inside is given, or the reverse."""
        return any(
            slot.reads is not None and own.startswith(f"{path}.") != slot.reads.startswith(f"{path}.")
            for own, site in self._outputs.items()
            for slot in site.slots.values()
        )

    def _plug(self, name: str, path: str, slot: Slot, source: Source | None) -> None:
        if isinstance(slot, OutputSlot):
            if path not in self._outputs:
                host = Host(self._model.get_submodule(path), path, self._bare, self._model)
                self._outputs[path] = OutputSite(host, self.routing)
            reads = None if slot.reads is None else self._model.get_submodule(slot.reads)
            self._outputs[path].plug(name, slot, reads)
        elif isinstance(slot, WeightSlot):
            self._weights.setdefault(path, WeightSite.find(self._model, path)).plug(name, slot)
        elif isinstance(slot, EmbeddingSlot):
            assert isinstance(source, EmbeddingSource), "virtual tokens have their embeddings from a source"
            self._embeddings.plug(name, slot, source)
        else:
            self._attention.plug(name, path, slot)

    def _unplug(self, name: str, path: str, slot: Slot) -> None:
        if isinstance(slot, OutputSlot):
            output = self._outputs[path]
            output.unplug(name)
            if not output.slots:
                del self._outputs[path]
        elif isinstance(slot, WeightSlot):
            self._weights.pop(path).unplug(name)
        elif isinstance(slot, EmbeddingSlot):
            self._embeddings.unplug(name)
        else:
            self._attention.unplug(name, path)


def _lies_in(path: str, outer: str) -> bool:
    return f"{path}.".startswith(f"{outer}.")
