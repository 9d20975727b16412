"""BitFit: only the bias terms are learned.

Paper: Ben Zaken, Goldberg, Ravfogel: "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
Language-models" (2022), https://arxiv.org/abs/2106.10199

    y = W x + b,   of which b is learned; likewise the shift of every layer norm

Learned is what is added to the pretrained bias, from zero: the same gradients, and rows of other adapters keep theirs.

Where we differ: nothing in the maths. The biases of output heads stay as they are.

Shapes: d_out of the host.
"""

from fnmatch import fnmatchcase
from typing import final

import torch
from torch import Tensor, nn

from petune.backbone.sublayers import norms
from petune.errors import TargetError, nearest
from petune.methods.config import MethodConfig
from petune.methods.method import Method, Paper, Target
from petune.sites.output import OutputSlot
from petune.sites.sites import Slot


@final
class BitFitConfig(MethodConfig):
    """Settings of BitFit."""

    bias_modules: tuple[str, ...] = ("*",)
    """Shell patterns over the modules whose bias is learned; the paper's subset: "*.query", "*.intermediate.dense"."""


@final
class BiasSlot(OutputSlot):
    """What is added to one bias.

    Args:
        width: d_out of the host.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return y + the change of the bias."""
        return y + self.bias.to(y.dtype)

    def merged_weight(self, weight: Tensor) -> Tensor:
        """Return the weight as it is."""
        return weight

    def merged_bias(self, bias: Tensor) -> Tensor:
        """Return the learned bias."""
        return bias + self.bias


@final
class BitFit(Method[BitFitConfig]):
    """Learned bias terms."""

    name = "bitfit"
    title = "BitFit"
    paper = Paper(
        "Ben Zaken et al.",
        2022,
        "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models",
        "https://arxiv.org/abs/2106.10199",
    )
    sites = ("output",)
    learning_rate = 1e-3
    start = "exact"
    config_class = BitFitConfig

    def build(self, config: BitFitConfig, target: Target) -> dict[str, Slot]:
        """Return one slot for each module whose bias is chosen."""
        widths = _biased(target)
        if not widths:
            raise TargetError(
                "this base has no biases (LLaMA and its kin have none), so there is nothing for BitFit to learn;"
                " ia3, lora and bottleneck work on it, and BitFit works on GPT-2, GPT-NeoX, OPT and BERT, for instance"
            )
        for pattern in config.bias_modules:
            if not any(fnmatchcase(path, pattern) for path in widths):
                raise TargetError(
                    f"bias_modules: '{pattern}' matches no module with a bias; paths look like"
                    f" '{next(iter(widths))}'.{nearest(pattern, widths)}"
                )
        return {
            path: BiasSlot(width)
            for path, width in widths.items()
            if any(fnmatchcase(path, pattern) for pattern in config.bias_modules)
        }


def _biased(target: Target) -> dict[str, int]:
    """Return the width of every linear and norm that has a bias, heads left out, by path."""
    structure = target.structure
    linears = {x.path: x.out_features for x in structure.linears if x.has_bias and x.role != "head"}
    widths = linears | {norm.path: norm.width for norm in norms(target.model, structure) if norm.has_bias}
    order = [path for path, _ in target.model.named_modules()]
    return dict(sorted(widths.items(), key=lambda item: order.index(item[0])))
