"""The linears and blocks of any transformer, read off its module tree: no table of architectures.

A *block* is one member of an outermost ``nn.ModuleList`` whose members compute attention; an encoder-decoder
has two such lists. A *linear* is a leaf ``nn.Linear`` or GPT-2's ``Conv1D``, fused projections included. Its
role follows from where it sits: below a module whose class is named for attention, elsewhere in a block, in a
head, or none of these. Every module counts once, however often the model runs it (ALBERT repeats one block).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal, TypeVar, final

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from petune.backbone.arguments import takes
from petune.backbone.attentions import attends_only, find_attentions
from petune.backbone.embeddings import Embedding, find_embeddings
from petune.backbone.experts import find_experts
from petune.backbone.head_modules import HeadModules
from petune.backbone.kind import Kind, kind_of
from petune.backbone.targets import choose, indices_in, names_by_role
from petune.errors import TargetError, nearest

Role = Literal["attention", "mlp", "head", "other"]


@dataclass(frozen=True)
class Linear:
    """One linear of a base model, described by its module path and its sizes.

    Attributes:
        path: module path below the model, as ``named_modules`` spells it.
        in_features: width of the input's last dimension.
        out_features: width of the output's last dimension.
        role: ``attention`` or ``mlp`` inside a block; outside, ``head`` for output embeddings and task heads,
            else ``other``.
        transposed: the weight is stored ``[in_features, out_features]`` (Conv1D), not the other way round.
        block: index into :attr:`Structure.blocks`, or None outside the blocks.
        tied: the weight is also another module's parameter (an output head that shares the embeddings).
        has_bias: a learned bias is added to the product.
    """

    path: str
    in_features: int
    out_features: int
    role: Role
    transposed: bool
    block: int | None
    tied: bool = False
    has_bias: bool = False


ModuleT = TypeVar("ModuleT", bound=Linear | Embedding)


@final
class Structure:
    """The blocks and linears of a model, found from its module tree; works on the meta device.

    Args:
        model: any module; output embeddings and task heads are told apart where it is a ``PreTrainedModel``.
        random: names of parameters that the weight files lack, so that they belong to the head of a task.

    Attributes:
        blocks: paths of the repeated transformer blocks, in order (encoder before decoder).
        head: paths of the modules that make up the head of a task, or of several; empty for a language model alone.
        model_type: what transformers calls the architecture; empty for a model that is no ``PreTrainedModel``.
        linears: every linear once, in module order.
        repeats_blocks: whether a block is run several times, as in ALBERT.
        embeddings: every table that is looked up by its input's numbers, once, in module order.
        experts: paths of what holds parts of a block that see some of the tokens each.
        attentions: every attention module once, in module order; empty for a model that is no ``PreTrainedModel``.
        attends_only: whether what precedes a token reaches it through attentions alone, as keys and values.
        embeds_once: whether a token's embedding is all that is looked up for it, so that one may stand for a token.
    """

    def __init__(self, model: nn.Module, random: Iterable[str] = ()) -> None:
        self.blocks: tuple[str, ...] = tuple(_block_paths(model))
        pretrained = model if isinstance(model, PreTrainedModel) else None
        self._told_width = 0 if pretrained is None else _setting(pretrained, "hidden_size")
        self.model_type: str = "" if pretrained is None else str(pretrained.config.model_type)
        self.kind: Kind = "decoder" if pretrained is None else kind_of(pretrained.config)
        self.head: tuple[str, ...] = () if pretrained is None else _head_paths(pretrained, random)
        self.linears: tuple[Linear, ...] = tuple(_linears(model, self.blocks, self.head))
        self.embeddings: tuple[Embedding, ...] = tuple(find_embeddings(model, self.blocks))
        self.experts: tuple[str, ...] = tuple(find_experts(model, self.blocks))
        self.repeats_blocks: bool = pretrained is not None and _setting(pretrained, "num_hidden_layers") > len(
            self.blocks
        )
        self.attentions = () if pretrained is None else find_attentions(pretrained, self.blocks)
        self.embeds_once = pretrained is None or not takes(body_of(pretrained), "per_layer_inputs")
        self.attends_only = pretrained is not None and attends_only(pretrained, self.blocks, self.attentions)

    @property
    def num_blocks(self) -> int:
        """How many transformer blocks there are, each counted once."""
        return len(self.blocks)

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream: the config's, else the width that most linears of the blocks read or write.

        Raises:
            TargetError: the model has no linear to read it from.
        """
        inside = [linear for linear in self.linears if linear.block is not None] or list(self.linears)
        widths = Counter(width for linear in inside for width in (linear.in_features, linear.out_features))
        if not widths:
            raise TargetError("this base model has no linear layer (nn.Linear or Conv1D); petune needs a transformer.")
        return self._told_width if self._told_width in widths else widths.most_common(1)[0][0]

    @property
    def is_decoder_lm(self) -> bool:
        """Whether the model reads left to right only, as a causal language model does."""
        return self.kind == "decoder"

    def names_by_role(self) -> dict[str, tuple[str, ...]]:
        """The leaf names of each role that has linears, each once, in module order."""
        return names_by_role({linear.path: linear.role for linear in self.linears})

    def linear(self, path: str) -> Linear:
        """Return the linear at ``path``.

        Raises:
            TargetError: there is none.
        """
        for linear in self.linears:
            if linear.path == path:
                return linear
        raise TargetError(f"this base model has no linear at {path!r}.{nearest(path, [x.path for x in self.linears])}")

    def feed_forward(self, block: int) -> str | None:
        """Return the path of the module that holds the feed-forward linears of a block and nothing else of it.

        None where they have no module of their own.
        """
        inside = [linear for linear in self.linears if linear.block == block]
        own = [linear.path.split(".")[:-1] for linear in inside if linear.role == "mlp"]
        alike = takewhile(lambda names: len(set(names)) == 1, zip(*own, strict=False))
        path = ".".join(names[0] for names in alike)
        holds_attention = any(f"{linear.path}.".startswith(f"{path}.") for linear in inside if linear.role != "mlp")
        return None if len(own) < 2 or holds_attention or path == self.blocks[block] else path

    def select(
        self,
        targets: str | Sequence[str],
        *,
        exclude: str | Sequence[str] = (),
        layers: Sequence[int] | None = None,
    ) -> tuple[Linear, ...]:
        """Return the linears that ``targets`` means, in module order.

        Args:
            targets: a role (``attention``, ``mlp``, or ``all-linear``: every linear but the heads), a list of
                names or roles, or one pattern; :mod:`petune.backbone.targets` has the rules.
            exclude: linears to leave out, written the same way.
            layers: keep only these block indices; linears outside the blocks are then left out.

        Raises:
            TargetError: a name matches nothing, a pattern cannot be used, a block index is out of range, or
                nothing is left.
        """
        return self._select(self.linears, targets, exclude, layers, ())

    def select_with_embeddings(
        self,
        targets: str | Sequence[str],
        *,
        exclude: str | Sequence[str] = (),
        layers: Sequence[int] | None = None,
        layers_pattern: Sequence[str] = (),
    ) -> tuple[Linear | Embedding, ...]:
        """Return the linears and embeddings that ``targets`` means: linears first, each kind in module order.

        Embeddings have no role: only a name or a pattern chooses them.

        Args:
            targets: as for :meth:`select`.
            exclude: what to leave out, written the same way.
            layers: keep only these block indices.
            layers_pattern: names of lists of blocks; given, an index counts in the list of that name.

        Raises:
            TargetError: as from :meth:`select`.
        """
        return self._select((*self.linears, *self.embeddings), targets, exclude, layers, layers_pattern)

    def _select(
        self,
        modules: Sequence[ModuleT],
        targets: str | Sequence[str],
        exclude: str | Sequence[str],
        layers: Sequence[int] | None,
        layers_pattern: Sequence[str],
    ) -> tuple[ModuleT, ...]:
        roles = {module.path: module.role if isinstance(module, Linear) else "embedding" for module in modules}
        chosen = choose(roles, targets, what="target modules")
        dropped = choose(roles, exclude, what="excluded modules") if exclude else frozenset[str]()
        blocks = {module.path: module.block for module in modules}
        if layers_pattern:
            blocks = indices_in(layers_pattern, roles, what="layers_pattern")
        wanted = None if layers is None else frozenset(layers)
        for index in sorted(wanted or ()):
            if not layers_pattern and not 0 <= index < self.num_blocks:
                raise TargetError(
                    f"layer {index} does not exist: this base model has {self.num_blocks} blocks, "
                    f"numbered 0 to {self.num_blocks - 1}."
                )
        kept = tuple(
            module
            for module in modules
            if module.path in chosen - dropped and (wanted is None or blocks[module.path] in wanted)
        )
        if not kept:
            raise TargetError(
                f"no linear is left of target modules {targets!r} after exclude={exclude!r} and "
                f"layers={layers!r}; exclude fewer modules or name more layers."
            )
        return kept


def _computes_attention(module: nn.Module) -> bool:
    return any("Attention" in type(part).__name__ for part in module.modules())


def _setting(model: PreTrainedModel, name: str) -> int:
    return int(getattr(model.config.get_text_config(), name, None) or 0)


def _block_paths(model: nn.Module) -> Iterator[str]:
    lists = [(path, module) for path, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    stacks = [(path, members) for path, members in lists if _computes_attention(members)]
    if not stacks:  # state-space models have no attention: their longest list is the stack
        stacks = sorted(lists, key=lambda item: -len(item[1]))[:1]
    taken: list[str] = []
    for path, members in stacks:
        if not any(path.startswith(outer + ".") for outer in taken):
            taken.append(path)
            yield from (f"{path}.{index}" for index in range(len(members)))


def _linears(model: nn.Module, blocks: tuple[str, ...], head: tuple[str, ...]) -> Iterator[Linear]:
    modules = dict(model.named_modules())
    block_of = {path: index for index, path in enumerate(blocks)}
    holders = Counter(id(weight) for module in modules.values() for weight in module.parameters(recurse=False))
    one_of_each = {type(module): module for module in modules.values() if isinstance(module, nn.Linear)}
    multiplying = tuple(kind for kind, module in one_of_each.items() if _multiplies(module))
    for path, module in modules.items():
        if isinstance(module, Conv1D):
            in_features, out_features = module.nx, module.nf
        elif isinstance(module, nn.Linear) and type(module) in multiplying:
            in_features, out_features = module.in_features, module.out_features
        else:
            continue
        ancestors = _ancestors(path)
        block = next((block_of[ancestor] for ancestor in ancestors if ancestor in block_of), None)
        if block is None:
            role: Role = "head" if _is_head(model, module) or not set(head).isdisjoint(ancestors) else "other"
        else:
            inside = (ancestor for ancestor in ancestors if ancestor.startswith(blocks[block] + "."))
            names = (type(modules[ancestor]).__name__ for ancestor in inside)
            role = "attention" if any("Attention" in name for name in names) else "mlp"
        tied = holders[id(module.weight)] > 1
        transposed, has_bias = isinstance(module, Conv1D), module.bias is not None
        yield Linear(path, in_features, out_features, role, transposed, block, tied, has_bias)


@torch.no_grad()
def _multiplies(module: nn.Linear) -> bool:
    """Say whether what a linear gives is one tensor, as its class says; a router gives scores of experts besides."""
    # nn.MultiheadAttention reads its out_proj's weight and never calls it: nothing can attach there
    if isinstance(module, NonDynamicallyQuantizableLinear):
        return False
    if type(module).forward is nn.Linear.forward:
        return True
    try:
        row = torch.zeros(1, module.in_features, dtype=module.weight.dtype, device=module.weight.device)
        return isinstance(module.forward(row), Tensor)
    except Exception:  # quantised ones may want another precision or device
        return True


def body_of(model: PreTrainedModel) -> PreTrainedModel:
    """Return the headless model, also where the model's class names it by what it has not (Llama 4's text model)."""
    own = [child for child in model.children() if isinstance(child, PreTrainedModel)]
    return own[0] if model.base_model is model and len(own) == 1 else model.base_model


def _ancestors(path: str) -> list[str]:
    """Every module path on the way to ``path``, itself included, outermost first."""
    parts = path.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


def _is_head(model: nn.Module, module: nn.Module) -> bool:
    """Whether a linear outside the blocks is the output embeddings, or lies outside the headless model."""
    if not isinstance(model, PreTrainedModel):
        return False
    if module is model.get_output_embeddings():
        return True
    headless = body_of(model)
    return headless is not model and all(module is not part for part in headless.modules())


def _head_paths(model: PreTrainedModel, random: Iterable[str]) -> tuple[str, ...]:
    """Return what is outside the headless model, what else the weight files lack (a pooler), and further heads."""
    further = [
        f"{path}.{name}"
        for path, child in model.named_children()
        if isinstance(child, HeadModules)
        for name, part in child.named_children()
        if _learns(part)
    ]
    if model.get_output_embeddings() is not None:
        return tuple(further)
    headless = body_of(model)
    outside = [
        path
        for path, child in model.named_children()
        if (child is not headless if headless is not model else isinstance(child, nn.Linear))
        and not isinstance(child, HeadModules)
        and _learns(child)
    ]
    lacking = dict.fromkeys(name.rpartition(".")[0] for name in random)
    inside = [path for path in lacking if not any(f"{path}.".startswith(f"{head}.") for head in outside)]
    return (*outside, *inside, *further)


def _learns(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())
