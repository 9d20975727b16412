"""Learned keys and values in front of every attention: what prefix tuning and P-tuning v2 share.

They are learned directly, or computed while training by one network for all layers (Li and Liang 2021, section 4.3):

    [P_k; P_v] of all layers = W_2 tanh(W_1 E + b_1) + b_2,   E [P, d] learned

which is dropped after training: what it computed last is kept. An encoder-decoder has three, as in the authors' code:
for the attentions of its encoder, of its decoder, and between the two.

Shapes: P virtual tokens, d hidden width, m width inside the network, L attentions, K key-value heads, D head width.
"""

from abc import ABC
from collections.abc import Mapping, Sequence
from typing import Literal, Self, TypeVar, final

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from petune.backbone.attentions import Attention
from petune.errors import BaseModelError
from petune.methods.config import MethodConfig
from petune.methods.method import Method, Parts, Target, without_dropout
from petune.methods.starts import drawn_linear, fit_last_layer, start_ids
from petune.sites.attention import AttentionSlot, KeysValues, Reader, Source, SourcedSlot, read_keys_values
from petune.sites.routing import Stack
from petune.sites.sites import Slot

HIDDEN_SIZE = 512
"""Width m unless one is given, as in the authors' code."""

MEASURED_TOKENS = 64
"""How many of the base's tokens a random start is measured on."""


class KeysValuesConfig(MethodConfig):
    """Settings of learned keys and values."""

    num_virtual_tokens: int = Field(default=20, ge=1, le=4096)
    """Length of the prefix, in tokens."""

    prefix_projection: bool = False
    """Compute keys and values with a network while training (three in an encoder-decoder), dropped afterwards."""

    encoder_hidden_size: int | None = Field(default=None, ge=1)
    """Width of the layer inside that network; 512 where none is given."""

    prefix_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the numbers of keys and values that are dropped in training."""

    shift_positions: bool = True
    """Move the positions of real tokens behind the virtual ones, as PEFT does; if not, they stay, as in AdapterHub."""

    prefix_init: Literal["vocabulary", "text", "random"] = "vocabulary"
    """Start: the base's own keys and values for sampled common tokens or for a text, or random ones like them."""

    prefix_init_text: str | None = None
    """Text of the start; repeated where it is shorter than the prefix."""

    @model_validator(mode="after")
    def _settings_go_together(self) -> Self:
        if (self.prefix_init == "text") != (self.prefix_init_text is not None):
            raise ValueError("prefix_init=text and prefix_init_text go together; give both or neither")
        if self.encoder_hidden_size is not None and not self.prefix_projection:
            raise ValueError("encoder_hidden_size is the width of the projection; set prefix_projection=true with it")
        return self


@final
class PrefixSlot(AttentionSlot):
    """The learned keys and values of one attention.

    Args:
        keys: start of the keys [K, P, D].
        values: start of the values [K, P, D].
        dropout: share that is dropped in training.
        answer_only: hide them from all tokens but those that predict the answer.
        shift: move real tokens behind them.
    """

    def __init__(
        self, keys: Tensor, values: Tensor, *, dropout: float = 0.0, answer_only: bool = False, shift: bool = True
    ) -> None:
        super().__init__()
        self.keys = nn.Parameter(keys.detach().to(torch.float32).clone(memory_format=torch.contiguous_format))
        self.values = nn.Parameter(values.detach().to(torch.float32).clone(memory_format=torch.contiguous_format))
        self.position_shift = keys.shape[1] if shift else 0
        self.answer_only = answer_only
        self._dropout = dropout

    def forward(self, stack: Stack) -> KeysValues:
        """Return keys and values [K, P, D]."""
        return self.keys_values()

    def keys_values(self) -> KeysValues:
        """Return keys and values [K, P, D], with dropout in training."""
        if not (self.training and self._dropout):
            return self.keys, self.values
        return F.dropout(self.keys, self._dropout), F.dropout(self.values, self._dropout)


@final
class Network(nn.Module):
    """Computes the keys and values of attentions of one kind from one embedding for each virtual token.

    Args:
        attentions: the attentions.
        hidden_size: width d of the embeddings.
        config: the settings.
        generator: source of the start.
    """

    def __init__(
        self, attentions: Sequence[Attention], hidden_size: int, config: KeysValuesConfig, generator: torch.Generator
    ) -> None:
        super().__init__()
        width = config.encoder_hidden_size or HIDDEN_SIZE
        self._attentions = tuple(attentions)
        self._widths = [a.num_kv_heads * sum(_widths(a)) for a in attentions]
        self._dropout = config.prefix_dropout
        self.embedding = nn.Parameter(torch.randn(config.num_virtual_tokens, hidden_size, generator=generator))
        self.inner = drawn_linear(hidden_size, width, generator)
        self.outer = drawn_linear(width, sum(self._widths), generator)

    def keys_values(self) -> dict[str, KeysValues]:
        """Return keys and values [K, P, D] by the path of the attention."""
        flat = F.dropout(self.outer(self._inside()), self._dropout, self.training)
        found = {}
        for attention, part in zip(self._attentions, torch.split(flat, self._widths, -1), strict=True):
            flat_pair = torch.split(part, [attention.num_kv_heads * width for width in _widths(attention)], -1)
            keys, values = (own.view(len(own), attention.num_kv_heads, -1).transpose(0, 1) for own in flat_pair)
            found[attention.path] = (keys, values)
        return found

    def fit(self, start: Mapping[str, KeysValues]) -> None:
        """Make the network's output ``start``, by the smallest change of its last layer."""
        wanted = torch.cat([part.transpose(0, 1).flatten(1) for a in self._attentions for part in start[a.path]], -1)
        fit_last_layer(self.outer, self._inside(), wanted)

    def _inside(self) -> Tensor:
        return torch.tanh(self.inner(self.embedding))


@final
class Projection(Source):
    """The networks of a base, one for each kind of its attentions: of the encoder, of the decoder, between the two.

    Args:
        attentions: the attentions.
        hidden_size: width d of the embeddings.
        config: the settings.
        generator: source of the start.
    """

    def __init__(
        self, attentions: Sequence[Attention], hidden_size: int, config: KeysValuesConfig, generator: torch.Generator
    ) -> None:
        super().__init__()
        self._networks: list[Network] = []
        for kind in dict.fromkeys(attention.kind for attention in attentions):
            network = Network([a for a in attentions if a.kind == kind], hidden_size, config, generator)
            self._networks.append(network)
            self.add_module(kind, network)

    def forward(self, read: Reader) -> Mapping[str, KeysValues]:
        """Return the keys and values of each attention; the base is not asked."""
        return self.keys_values()

    def keys_values(self) -> dict[str, KeysValues]:
        """Return keys and values [K, P, D] by the path of the attention."""
        return {path: pair for network in self._networks for path, pair in network.keys_values().items()}

    def fit(self, start: Mapping[str, KeysValues]) -> None:
        """Make the networks' output ``start``, by the smallest change of their last layers."""
        for network in self._networks:
            network.fit(start)


ConfigT = TypeVar("ConfigT", bound=KeysValuesConfig)


class KeysValuesMethod(Method[ConfigT], ABC):
    """A method whose adapters are keys and values at every attention."""

    sites = ("attention",)
    start = "free"
    variations = ({"num_virtual_tokens": 5}, {"num_virtual_tokens": 50}, {"prefix_init": "random"})
    projection_learning_rate = 5e-5
    """Peak learning rate with ``prefix_projection``, where a step moves every key and value at once."""

    def hidden_from_prompt(self, config: ConfigT, target: Target) -> bool:
        """Say whether only the tokens that predict the answer see the keys and values."""
        return False

    def build(self, config: ConfigT, target: Target) -> dict[str, Slot]:
        """Return one slot for every attention.

        Raises:
            BaseModelError: there is none.
        """
        if not target.structure.attentions:
            raise BaseModelError(
                f"{type(target.model).__name__} has no attention, so there is nothing to add keys and values to;"
                " methods that change embeddings, outputs or weights work (petune methods lists the sites of each)"
            )
        hidden = self.hidden_from_prompt(config, target)
        if config.prefix_projection:
            moved = config.num_virtual_tokens if config.shift_positions else 0
            return {a.path: SourcedSlot(moved, answer_only=hidden) for a in target.structure.attentions}
        return {
            path: _slot(config, keys, values, answer_only=hidden)
            for path, (keys, values) in keys_values_start(config, target).items()
        }

    def source(self, config: ConfigT, target: Target) -> Source | None:
        """Return the projection, where there is one, fitted to the start."""
        if not config.prefix_projection:
            return None
        start = keys_values_start(config, target)  # drawn first: it is the one without a projection
        projection = Projection(target.structure.attentions, target.structure.hidden_size, config, target.generator)
        if not target.shapes_only:
            projection.fit(start)
        return projection

    @torch.no_grad()
    def bake(self, parts: Parts[ConfigT]) -> Parts[ConfigT] | None:
        """Return the keys and values that the projection computes, without it."""
        if not isinstance(parts.source, Projection):
            return None
        with without_dropout(parts.source):
            computed = parts.source.keys_values()
        config = parts.config.model_copy(update={"prefix_projection": False, "encoder_hidden_size": None})
        slots = {}
        for path, slot in parts.slots.items():
            assert isinstance(slot, SourcedSlot)
            keys, values = computed[path]
            slots[path] = _slot(config, keys, values, answer_only=slot.answer_only)
        return Parts(config, slots)

    def rate(self, config: ConfigT) -> float:
        """Return the rate of what is learned: keys and values, or the network that computes them."""
        return self.projection_learning_rate if config.prefix_projection else self.learning_rate


def _slot(config: KeysValuesConfig, keys: Tensor, values: Tensor, *, answer_only: bool) -> PrefixSlot:
    return PrefixSlot(
        keys, values, dropout=config.prefix_dropout, answer_only=answer_only, shift=config.shift_positions
    )


def keys_values_start(config: KeysValuesConfig, target: Target) -> dict[str, KeysValues]:
    """Return the start of the keys and values [K, P, D] by the path of the attention.

    Raises:
        ConfigError: the text of the start is empty or too long, or the base has fewer positions than virtual tokens.
    """
    attentions, length = target.structure.attentions, config.num_virtual_tokens
    if target.shapes_only:
        keys, values = (
            {a.path: torch.zeros(a.num_kv_heads, length, _widths(a)[i]) for a in attentions} for i in (0, 1)
        )
        return {path: (keys[path], values[path]) for path in keys}
    paths = tuple(a.path for a in attentions)
    if config.prefix_init == "random":
        ids = start_ids(target, MEASURED_TOKENS, None, setting="prefix_init")
        measured = read_keys_values(target.model, paths, ids)
        return {
            path: (_like(keys, length, target.generator), _like(values, length, target.generator))
            for path, (keys, values) in measured.items()
        }
    ids = start_ids(target, length, config.prefix_init_text, setting="prefix_init_text")
    return read_keys_values(target.model, paths, ids)


def _widths(attention: Attention) -> tuple[int, int]:
    """Return how wide a head's key and value are."""
    return attention.head_dim, attention.value_dim


def _like(measured: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """Return random numbers [K, P, D] with the mean and spread of each head's channels in ``measured`` [K, T, D]."""
    measured = measured[:, 1:].float()  # attention uses the first token of a text as a sink: it is like no other
    noise = torch.randn(len(measured), length, measured.shape[2], generator=generator).to(measured.device)
    return noise * measured.std(1, keepdim=True) + measured.mean(1, keepdim=True)
