"""A trained adapter: its method, its settings and its tensors."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from petune import methods
from petune.backbone.base import Base
from petune.backbone.structure import Structure
from petune.backbone.task_names import TaskName
from petune.backbone.vocabulary import read_tokens
from petune.errors import AdapterFormatError, BaseModelError, ConfigError, nearest
from petune.methods.beside import with_besides
from petune.methods.config import MethodConfig
from petune.methods.method import Method, Parts, Target
from petune.sites.attention import AttentionSlot, Source
from petune.sites.attention_switch import require_attention
from petune.sites.gated import GatedSlot
from petune.sites.placement import Placement
from petune.sites.replacement import Replacement
from petune.sites.sites import Slot
from petune.sites.token_rows import TokenRows, with_tokens
from petune.sites.weights import WeightSlot


@final
@dataclass(frozen=True, slots=True)
class LearnedTask:
    """One of several tasks that an adapter was trained for at once."""

    name: str
    task: TaskName
    labels: tuple[str, ...]
    """Names of the classes that its head tells apart; empty where it has none."""
    head: str | None
    """Path of its head's modules in a base with several heads; None for the head that the base was loaded with."""
    parameters: int
    """Parameters of a base that is loaded for this task alone, its head not counted."""
    data_format: dict[str, Any]
    """How its rows became text."""


@final
class Adapter(nn.Module):
    """What one run of one method learned: its settings and its tensors, apart from any base.

    Args:
        method: the method it belongs to.
        config: the method's settings.
        slots: what was learned, by the path in the base it plugs into.
        name: the label that routes rows to it.
        source: what computes the slots' values anew at each pass, for methods that need it.
        placement: where virtual tokens are written into the rows, for methods that do.
    """

    def __init__(
        self,
        method: Method[Any],
        config: MethodConfig,
        slots: Mapping[str, Slot],
        name: str = "default",
        source: Source | None = None,
        placement: Placement | None = None,
    ) -> None:
        super().__init__()
        self.method = method
        self.config = config
        self.name = name
        self.trained_config = config
        """The settings it was trained with, where it has been baked since."""
        self.data_format: dict[str, Any] = {}
        """How rows became text when it was trained; rows it answers later are written the same way."""
        self.tasks: tuple[LearnedTask, ...] = ()
        """The tasks it was trained for, where they were named."""
        self.source = source
        self.placement = placement
        # Module names may not contain dots; paths may.
        self._modules_by_path = nn.ModuleDict({path.replace(".", "/"): slot for path, slot in slots.items()})

    @property
    def slots(self) -> dict[str, Slot]:
        """The slots by the path they plug into."""
        return {key.replace("/", "."): slot for key, slot in self._modules_by_path.items()}  # type: ignore[misc]

    @property
    def replacements(self) -> dict[str, Replacement]:
        """The slots that are copies of whole modules, by path."""
        return {path: slot for path, slot in self.slots.items() if isinstance(slot, Replacement)}

    @property
    def token_rows(self) -> dict[str, TokenRows]:
        """The slots that are rows of the embeddings or of the head, by path."""
        return {path: slot for path, slot in self.slots.items() if isinstance(slot, TokenRows)}

    def method_slots(self) -> dict[str, Slot]:
        """Return the slots that the method itself made, by path."""
        return {path: slot for path, slot in self.slots.items() if not isinstance(slot, Replacement | TokenRows)}

    def beside(self) -> dict[str, Slot]:
        """Return the slots that are learned beside the method, by path."""
        return {**self.replacements, **self.token_rows}

    def without_replacements(self) -> "Adapter":
        """Return the part that the method itself describes; slots are shared, not copied."""
        adapter = Adapter(self.method, self.config, self.method_slots(), self.name, self.source, self.placement)
        adapter.trained_config = self.trained_config
        return adapter

    def tensors(self) -> dict[str, Tensor]:
        """Return the learned tensors (fp32 masters, no copies) by ``path.tensor``, and what slots keep fixed."""
        tensors = {name: parameter.detach() for name, parameter in self.named_masters()}
        for path, slot in self.slots.items():
            tensors |= {f"{path}.{name}": tensor for name, tensor in slot.state_dict().items()}
        return tensors

    def named_masters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the learned parameters by ``path.tensor``, those of the source by ``source.tensor``."""
        for path, slot in self.slots.items():
            for name, parameter in slot.named_parameters():
                yield f"{path}.{name}", parameter
        if self.source is not None:
            for name, parameter in self.source.named_parameters():
                yield f"source.{name}", parameter

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy ``tensors`` in; names and shapes must be exactly those of :meth:`tensors`.

        Raises:
            AdapterFormatError: a tensor is missing, unknown, of another shape, or not finite.
        """
        own = self.tensors()
        problems = [f"'{n}' is missing" for n in own.keys() - tensors.keys()]
        problems += [f"'{n}' is unknown.{nearest(n, own)}" for n in tensors.keys() - own.keys()]
        for name in own.keys() & tensors.keys():
            if tensors[name].shape != own[name].shape:
                got, expected = list(tensors[name].shape), list(own[name].shape)
                problems.append(f"'{name}' has shape {got}, expected {expected}")
            elif not tensors[name].is_floating_point():
                problems.append(f"'{name}' is of type {tensors[name].dtype}, expected floating-point numbers")
            elif not tensors[name].isfinite().all():
                problems.append(f"'{name}' holds NaN or infinite values")
        if problems:
            shown = "; ".join(sorted(problems)[:5])
            raise AdapterFormatError(
                f"the tensors do not fit method {self.method.name} on this base ({len(problems)} problems): {shown}."
                " Check that the settings and the base are those the adapter was trained with."
            )
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
        self.refresh()

    def set_trainable(self, trainable: bool) -> None:
        """Let the adapter's parameters receive gradients, or not."""
        for slot in self.slots.values():
            if isinstance(slot, WeightSlot):
                slot.set_trainable(trainable)
            else:
                slot.requires_grad_(trainable)
        if self.source is not None:
            self.source.requires_grad_(trainable)

    def refresh(self) -> None:
        """Bring copies in a lower precision in step with the masters; call after every change of the masters."""
        for slot in self.slots.values():
            if isinstance(slot, WeightSlot):
                slot.refresh()

    @property
    def virtual_tokens(self) -> int:
        """How many of the model's positions it takes in front of the input."""
        shifts = (slot.position_shift for slot in self.slots.values() if isinstance(slot, AttentionSlot))
        return max(shifts, default=0)

    @property
    def needs_answers(self) -> bool:
        """Whether it must be told where each row's answer begins."""
        return any(isinstance(slot, AttentionSlot) and slot.answer_only for slot in self.slots.values())

    def baked(self) -> "Adapter":
        """Return the adapter without what only training needs; itself where there is nothing of the kind."""
        parts = self.method.bake(Parts(self.config, self.method_slots(), self.source))
        if parts is None:
            return self
        slots = {**parts.slots, **self.beside()}
        adapter = Adapter(self.method, parts.config, slots, self.name, parts.source, self.placement)
        adapter.trained_config = self.trained_config
        adapter.data_format = self.data_format
        adapter.tasks = self.tasks
        adapter.set_trainable(False)
        return adapter.train(self.training)

    def num_parameters(self) -> int:
        """Return how many numbers the adapter learned."""
        return sum(p.numel() for p in self.parameters())


def build_adapter(
    method: str,
    options: Mapping[str, Any],
    model: PreTrainedModel,
    structure: Structure,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    name: str = "default",
    seed: int = 42,
    shapes_only: bool = False,
) -> Adapter:
    """Return a fresh adapter of ``method`` for ``model``.

    With ``shapes_only``, and for a model on the meta device, its tensors have their shapes and any values, to be loaded
    over or counted.

    Raises:
        ConfigError: an unknown method or setting.
        TargetError: the settings name places that the base does not have.
        BaseModelError: the method adds to attentions, and those of the base cannot be reached.
    """
    chosen = methods.get(method)
    config = chosen.configure(options)
    shapes_only = shapes_only or model.device.type == "meta"
    target = Target(model, structure, tokenizer, torch.Generator().manual_seed(seed), shapes_only)
    slots, source = chosen.build(config, target), chosen.source(config, target)
    if any(isinstance(slot, AttentionSlot | GatedSlot) for slot in slots.values()):
        require_attention(model)
    placement = chosen.placement(config, structure)
    if placement is not None and structure.head and structure.kind == "encoder-decoder":
        raise BaseModelError(
            f"{type(model).__name__} gives its decoder its encoder's tokens too, where virtual ones mean nothing;"
            " use a method that adds to attentions, outputs or weights (petune methods lists the sites of each)"
        )
    fills_in = structure.kind == "encoder" and not structure.head
    if placement is not None and not (placement.ends_with_answer or fills_in):
        raise ConfigError(
            f"the template goes on after {{mask}}, and a {type(model).__name__} does not fill an answer in: put"
            " {mask} last, or load an encoder for masked_lm"
        )
    adapter = Adapter(chosen, config, with_besides(chosen, config, target, slots), name, source, placement)
    if adapter.needs_answers and structure.head:
        raise ConfigError(
            f"an infix stands before the answer that a decoder writes, and a {type(model).__name__} does not write one"
            " after its prompt; leave placement out"
        )
    return adapter


def create_adapter(
    base: Base, method: str = "lora", *, name: str = "default", seed: int = 42, **options: Any
) -> Adapter:
    """Return a fresh adapter of ``method`` for ``base``; ``options`` are the method's settings.

    New tokens are added to the base, and their rows are learned beside the method.

    Raises:
        ConfigError: an unknown method or setting.
        TargetError: the settings name places that the base does not have.
        BaseModelError: the base's vocabulary cannot grow.
    """
    chosen = methods.get(method)
    new_tokens = read_tokens(chosen.configure(options).new_tokens)
    if new_tokens and chosen.trains:
        ids = base.add_tokens(new_tokens)
        options = {**options, "new_tokens": new_tokens}
        if chosen.shares_batch:
            wanted = options.get("trainable_token_indices", ())
            options["trainable_token_indices"] = with_tokens(base.model, wanted, ids)
    tokenizer = base.tokenizer if base.has_tokenizer else None
    return build_adapter(method, options, base.model, base.structure, tokenizer=tokenizer, name=name, seed=seed)
