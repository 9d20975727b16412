"""Bottleneck adapters: small networks behind the sub-layers of every block.

Paper: Houlsby, Giurgiu, Jastrzebski, Morrone, de Laroussilhe, Gesmundo, Attariyan, Gelly: "Parameter-Efficient Transfer
Learning for NLP" (2019), https://arxiv.org/abs/1902.00751
One a block: Pfeiffer, Kamath, Ruecklé, Cho, Gurevych: "AdapterFusion" (2021), https://arxiv.org/abs/2005.00247

Beside the feed-forward layer: He, Zhou, Ma, Berg-Kirkpatrick, Neubig: "Towards a Unified View of Parameter-Efficient
Transfer Learning" (2022), https://arxiv.org/abs/2110.04366

    y -> y + s (W_up f(W_down z + b_down) + b_up)

y is the output of a sub-layer's last projection, before the residual connection and any normalisation after it. z is y
itself or, beside the feed-forward layer, the input of that layer. With ``adapter_input: residual`` z is the residual
stream, as in AdapterHub's library: y plus what it is added to, through the base's norm where the model normalises last;
or, beside the feed-forward layer, what y is added to.

The weights start from a normal distribution of standard deviation 1e-3, truncated at two of them, and the biases at
zero: nearly the identity, as in the authors' code. The base's layer norms are learned with the adapters, as a factor
and a shift of what they give.

Where we differ: nothing in the maths. He et al. start parallel adapters as LoRA starts, with s = 4; ours start as above
with s = 1 unless set.

Shapes: N entries, d hidden width, m bottleneck.
"""

from collections.abc import Sequence
from typing import Literal, Self, final

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers.activations import ACT2FN

from petune.backbone.sublayers import Norm, SubLayer, norms, sub_layers
from petune.errors import ConfigError, nearest
from petune.kernels.wide_products import linear
from petune.methods.config import MethodConfig
from petune.methods.method import Finding, Method, Paper, Target
from petune.sites.host import Host
from petune.sites.output import OutputSlot
from petune.sites.residual import joints
from petune.sites.sites import Slot

START_STD = 1e-3
WIDEST = 65_536

_COMPARISON = Paper(
    "Hu et al.", 2021, "LoRA: Low-Rank Adaptation of Large Language Models", "https://arxiv.org/abs/2106.09685"
)


@final
class BottleneckConfig(MethodConfig):
    """Settings of bottleneck adapters."""

    bottleneck_size: int | None = Field(default=64, ge=1, le=WIDEST)
    """Width m of the bottleneck."""

    reduction_factor: float | None = Field(default=None, gt=0)
    """Hidden width divided by m; give it instead of bottleneck_size."""

    non_linearity: str = "gelu"
    """Activation inside, by transformers' name: gelu, relu, swish, tanh, ..."""

    placement: Literal["houlsby", "pfeiffer", "parallel"] = "houlsby"
    """houlsby: after attention and the feed-forward layer; pfeiffer: after the latter only; parallel: beside it."""

    adapter_input: Literal["sub_layer", "residual"] = "sub_layer"
    """What it reads: the sub-layer's output (input, if parallel), or the residual stream there, as in AdapterHub."""

    scaling: float = Field(default=1.0, gt=0, le=1e6)
    """Factor s of what the adapter adds; He et al. use 4 beside the feed-forward layer."""

    train_layer_norms: bool = True
    """Learn the scale and shift of the base's layer norms as well, as Houlsby et al. do."""

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if (self.bottleneck_size is None) == (self.reduction_factor is None):
            raise ValueError("give one of bottleneck_size and reduction_factor, and the other as none")
        return self

    def width(self, hidden: int) -> int:
        """Return m for a hidden width.

        Raises:
            ConfigError: the reduction factor makes it too large.
        """
        if self.bottleneck_size is not None:
            return self.bottleneck_size
        assert self.reduction_factor is not None
        width = max(1, int(hidden // self.reduction_factor))
        if width > WIDEST:
            raise ConfigError(
                f"reduction_factor is {self.reduction_factor:g}: {hidden} divided by it is wider than {WIDEST:,}; give"
                " a larger one"
            )
        return width


@final
class BottleneckSlot(OutputSlot):
    """The network behind one sub-layer, or beside it.

    Args:
        width: width d of what it reads and adds to.
        config: the settings.
        generator: source of the start.
        reads: path of the sub-module whose input it reads, or adds to y before it reads that; None to read y alone.
        norm: path of the norm that the sum it reads goes through.
    """

    def __init__(
        self,
        width: int,
        config: BottleneckConfig,
        generator: torch.Generator,
        reads: str | None = None,
        norm: str | None = None,
    ) -> None:
        super().__init__()
        inner = config.width(width)
        self.down_weight = nn.Parameter(_near_zero(inner, width, generator))
        self.down_bias = nn.Parameter(torch.zeros(inner))
        self.up_weight = nn.Parameter(_near_zero(width, inner, generator))
        self.up_bias = nn.Parameter(torch.zeros(width))
        self.activation = ACT2FN[config.non_linearity]
        self.scaling = config.scaling
        self.reads = reads
        self._beside = config.placement == "parallel"
        self._norm = norm
        self._host: Host | None = None

    def meet(self, host: Host) -> None:
        """Remember the host, by which the norm is found."""
        self._host = host

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return y + s (W_up f(W_down z + b_down) + b_up) for the z that the settings choose."""
        z = self._read(x, y)
        inner = self.activation(linear(z, self.down_weight, self.down_bias))
        return y + self.scaling * linear(inner, self.up_weight, self.up_bias)

    def _read(self, x: Tensor, y: Tensor) -> Tensor:
        """Return z: y, x, or their sum, as the base normalises it."""
        if self.reads is None:
            return y
        if self._beside:
            return x
        if self._norm is None:
            return x + y
        assert self._host is not None, "the slot is plugged in nowhere"
        # Its forward alone: called as a module, the norm would run the hooks of what is plugged into it.
        normalised: Tensor = self._host.elsewhere(self._norm).forward(x + y)
        return normalised


@final
class NormSlot(OutputSlot):
    """What is learned of one layer norm: n(x) w + b becomes n(x) (w f) + (b f + t) for factor f and shift t.

    Args:
        norm: the norm; one without a shift gets none.
    """

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(norm.width))
        self.shift = nn.Parameter(torch.zeros(norm.width)) if norm.has_bias else None

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return f y + t."""
        y = y * self.factor.to(y.dtype)
        return y if self.shift is None else y + self.shift.to(y.dtype)


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
    evidence = (
        Finding(
            "Within 0.4 points of full fine-tuning on GLUE with BERT-large, with 3.6 % of the parameters a task.",
            "near",
            tasks=("sequence_classification",),
        ),
        Finding(
            "On E2E with GPT-2 medium 66.3 BLEU, 68.2 for full fine-tuning; with GPT-2 large 69.1 and 68.5.",
            "near",
            tasks=("causal_lm",),
            paper=_COMPARISON,
        ),
    )
    sites = ("output",)
    learning_rate = 5e-4
    start = "near"
    variations = ({"bottleneck_size": 16}, {"bottleneck_size": 256})
    config_class = BottleneckConfig

    def build(self, config: BottleneckConfig, target: Target) -> dict[str, Slot]:
        """Return one slot for each chosen sub-layer, and one for each layer norm."""
        if config.non_linearity not in ACT2FN:
            raise ConfigError(
                f"non_linearity is '{config.non_linearity}', which transformers does not know."
                f"{nearest(config.non_linearity, ACT2FN)} It knows {', '.join(sorted(ACT2FN))}"
            )
        slots: dict[str, Slot] = {}
        layers = [
            layer
            for layer in sub_layers(target.model, target.structure)
            if layer.role == "mlp" or config.placement == "houlsby"
        ]
        places = _places(config, target, layers)
        for layer in layers:
            reads, norm = places[layer.last.path]
            slots[layer.last.path] = BottleneckSlot(layer.last.out_features, config, target.generator, reads, norm)
        if config.train_layer_norms:
            slots |= {norm.path: NormSlot(norm) for norm in norms(target.model, target.structure)}
        return slots


def _places(
    config: BottleneckConfig, target: Target, layers: Sequence[SubLayer]
) -> dict[str, tuple[str | None, str | None]]:
    """Return what the adapter of each sub-layer reads and the norm it reads through, by the path of its last linear."""
    if config.adapter_input == "residual":
        found = joints(target.model, target.structure, layers)
        return {path: (joint.reads, joint.norm) for path, joint in found.items()}
    beside = config.placement == "parallel"
    return {layer.last.path: (layer.first.path if beside else None, None) for layer in layers}


def _near_zero(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    start = torch.empty(rows, columns)
    return nn.init.trunc_normal_(start, std=START_STD, a=-2 * START_STD, b=2 * START_STD, generator=generator)
