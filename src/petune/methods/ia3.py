"""IA3: learned factors on keys, values, and the inner activations of the feed-forward layer.

Paper: Liu, Tam, Muqeeth, Mohta, Huang, Bansal, Raffel: "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper
than In-Context Learning" (2022), https://arxiv.org/abs/2205.05638

    softmax(q (l_k * K)^T / sqrt(D)) (l_v * V),   W_2 (l_ff * f(W_1 x))

Every factor starts at one, so the base is unchanged at the start.

Where we differ: a linear that makes queries, keys and values at once is scaled as the one linear it is, queries
included, as in HF PEFT.

Shapes: d_in and d_out of the host linear.
"""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from petune.backbone.structure import Linear, Structure
from petune.backbone.sublayers import key_value_linears, sub_layers
from petune.errors import ConfigError
from petune.methods.config import MethodConfig
from petune.methods.method import Method, Paper, Target
from petune.sites.output import OutputSlot
from petune.sites.sites import Slot


@final
class IA3Config(MethodConfig):
    """Settings of IA3."""

    target_modules: str | tuple[str, ...] | None = None
    """Linears to scale: a role, names, or a pattern; by default those of keys and values and the last of each mlp."""

    exclude_modules: str | tuple[str, ...] = ()
    """Linears to leave out, written the same way."""

    feedforward_modules: str | tuple[str, ...] | None = None
    """Those of them whose input is scaled, not their output, written the same way; by default those of each mlp."""


@final
class IA3Slot(OutputSlot):
    """The factors of one linear.

    Args:
        width: d_out, or d_in where the input is scaled.
        feedforward: scale the input instead of the output.
    """

    def __init__(self, width: int, *, feedforward: bool) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(width))
        self.changes_input = feedforward

    def enter(self, x: Tensor) -> Tensor:
        """Return l * x."""
        return x * self.factor.to(x.dtype)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return l * y, or y where the input has been scaled."""
        return y if self.changes_input else y * self.factor.to(y.dtype)

    def merged_weight(self, weight: Tensor) -> Tensor:
        """Return diag(l) W, or W diag(l) where the input is scaled."""
        return weight * (self.factor if self.changes_input else self.factor[:, None])

    def merged_bias(self, bias: Tensor) -> Tensor:
        """Return l * b, or b where the input is scaled."""
        return bias if self.changes_input else bias * self.factor


@final
class IA3(Method[IA3Config]):
    """Learned factors on keys, values and inner activations."""

    name = "ia3"
    title = "IA3"
    paper = Paper(
        "Liu et al.",
        2022,
        "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning",
        "https://arxiv.org/abs/2205.05638",
    )
    sites = ("output",)
    learning_rate = 1e-2
    start = "exact"
    config_class = IA3Config

    def build(self, config: IA3Config, target: Target) -> dict[str, Slot]:
        """Return one slot for each chosen linear."""
        targets = _of_the_paper(target) if config.target_modules is None else config.target_modules
        chosen = target.structure.select(targets, exclude=config.exclude_modules)
        inputs = _with_scaled_input(config, target.structure, chosen)
        slots: dict[str, Slot] = {}
        for linear in chosen:
            feedforward = linear.path in inputs
            slots[linear.path] = IA3Slot(
                linear.in_features if feedforward else linear.out_features, feedforward=feedforward
            )
        return slots


def _of_the_paper(target: Target) -> tuple[str, ...]:
    """Return the paths of the linears that make keys and values, and of the last linear of each feed-forward layer."""
    structure = target.structure
    attention = [linear for a in structure.attentions for linear in key_value_linears(structure, a)]
    mlp = [layer.last for layer in sub_layers(target.model, structure) if layer.role == "mlp"]
    return tuple(linear.path for linear in (*attention, *mlp))


def _with_scaled_input(config: IA3Config, structure: Structure, chosen: Sequence[Linear]) -> frozenset[str]:
    """Return the paths of those of ``chosen`` whose input is scaled.

    Raises:
        ConfigError: feedforward_modules names linears, but none of the chosen ones.
    """
    if config.feedforward_modules is None:
        return frozenset(linear.path for linear in chosen if linear.role == "mlp")
    if not config.feedforward_modules:
        return frozenset()
    wanted = frozenset(linear.path for linear in structure.select(config.feedforward_modules))
    if not wanted & {linear.path for linear in chosen}:
        raise ConfigError(
            f"feedforward_modules is {config.feedforward_modules!r}, but none of these is among target_modules; name"
            " linears that are, or leave it out"
        )
    return wanted
