"""Bottleneck adapters: small networks behind the sub-layers of every block.

Paper: Houlsby, Giurgiu, Jastrzebski, Morrone, de Laroussilhe, Gesmundo, Attariyan, Gelly: "Parameter-Efficient Transfer
Learning for NLP" (2019), https://arxiv.org/abs/1902.00751
One a block: Pfeiffer, Kamath, Ruecklé, Cho, Gurevych: "AdapterFusion" (2021), https://arxiv.org/abs/2005.00247

    y -> y + W_up f(W_down y + b_down) + b_up

y is the output of a sub-layer's last projection, before the residual connection and any normalisation after it. The
weights start from a normal distribution of standard deviation 1e-3, truncated at two of them, and the biases at zero:
nearly the identity, as in the authors' code.

Where we differ: the host's layer norms stay frozen.

Shapes: N entries, d hidden width, m bottleneck.
"""

from typing import Literal, Self, final

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

from petune.backbone.structure import Linear, Structure
from petune.errors import ConfigError, TargetError, nearest
from petune.methods.config import MethodConfig
from petune.methods.method import Method, Paper, Target
from petune.sites.output import OutputSlot
from petune.sites.sites import Slot

START_STD = 1e-3


@final
class BottleneckConfig(MethodConfig):
    """Settings of bottleneck adapters."""

    bottleneck_size: int | None = Field(default=64, ge=1)
    """Width m of the bottleneck."""

    reduction_factor: float | None = Field(default=None, gt=0)
    """Hidden width divided by m; give it instead of bottleneck_size."""

    non_linearity: str = "gelu"
    """Activation inside, by transformers' name: gelu, relu, swish, tanh, ..."""

    placement: Literal["houlsby", "pfeiffer"] = "houlsby"
    """houlsby: after attention and after the feed-forward layer; pfeiffer: after the feed-forward layer only."""

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if (self.bottleneck_size is None) == (self.reduction_factor is None):
            raise ValueError("give one of bottleneck_size and reduction_factor, and the other as none")
        return self

    def width(self, hidden: int) -> int:
        """Return m for a hidden width."""
        if self.bottleneck_size is not None:
            return self.bottleneck_size
        assert self.reduction_factor is not None
        return max(1, int(hidden // self.reduction_factor))


@final
class BottleneckSlot(OutputSlot):
    """The network behind one sub-layer.

    Args:
        hidden: width d of the sub-layer's output.
        config: the settings.
        generator: source of the start.
    """

    def __init__(self, hidden: int, config: BottleneckConfig, generator: torch.Generator) -> None:
        super().__init__()
        width = config.width(hidden)
        self.down_weight = nn.Parameter(_near_zero(width, hidden, generator))
        self.down_bias = nn.Parameter(torch.zeros(width))
        self.up_weight = nn.Parameter(_near_zero(hidden, width, generator))
        self.up_bias = nn.Parameter(torch.zeros(hidden))
        self.activation = ACT2FN[config.non_linearity]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return y + W_up f(W_down y + b_down) + b_up."""
        inner = self.activation(F.linear(y, self.down_weight.to(y.dtype), self.down_bias.to(y.dtype)))
        return y + F.linear(inner, self.up_weight.to(y.dtype), self.up_bias.to(y.dtype))


@final
class Bottleneck(Method[BottleneckConfig]):
    """Adapters in the sense of Houlsby et al."""

    name = "bottleneck"
    title = "bottleneck adapters"
    paper = Paper(
        "Houlsby et al.",
        2019,
        "Parameter-Efficient Transfer Learning for NLP",
        "https://arxiv.org/abs/1902.00751",
    )
    sites = ("output",)
    learning_rate = 1e-3
    start = "near"
    config_class = BottleneckConfig

    def build(self, config: BottleneckConfig, target: Target) -> dict[str, Slot]:
        """Return one slot behind each chosen sub-layer."""
        if config.non_linearity not in ACT2FN:
            raise ConfigError(
                f"non_linearity is '{config.non_linearity}', which transformers does not know."
                f"{nearest(config.non_linearity, ACT2FN)} It knows {', '.join(sorted(ACT2FN))}"
            )
        roles = ("attention", "mlp") if config.placement == "houlsby" else ("mlp",)
        return {
            linear.path: BottleneckSlot(linear.out_features, config, target.generator)
            for linear in _last_projections(target.structure, roles)
        }


def _last_projections(structure: Structure, roles: tuple[str, ...]) -> list[Linear]:
    """Return the last linear of each sub-layer: the one whose output joins the residual stream."""
    found: list[Linear] = []
    for block in range(structure.num_blocks):
        for role in roles:
            own = [linear for linear in structure.linears if linear.block == block and linear.role == role]
            if own:
                found.append(own[-1])
    if not found:
        raise TargetError("this base has no attention or feed-forward linears in its blocks to put adapters behind")
    return found


def _near_zero(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    start = torch.empty(rows, columns)
    return nn.init.trunc_normal_(start, std=START_STD, a=-2 * START_STD, b=2 * START_STD, generator=generator)
