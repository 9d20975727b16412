"""LoRA: a low-rank update beside frozen linears.

Paper: Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen: "LoRA: Low-Rank Adaptation of Large Language Models" (2021),
https://arxiv.org/abs/2106.09685

    y = W x + s B A dropout(x),   s = alpha / r,   or alpha / sqrt(r) with ``use_rslora`` (Kalajdzievski 2023,
    https://arxiv.org/abs/2312.03732)

B starts at zero, so the base is unchanged at the start. A starts from the uniform distribution with bound
1 / sqrt(d_in), as the authors' code and HF PEFT do (the paper writes "Gaussian").

Where we differ: nothing in the maths. Fused projections (GPT-2's c_attn, GPT-NeoX's query_key_value) are adapted as the
one linear they are; so is a projection that several blocks share.

Shapes: N entries, d_in and d_out of the host linear, r rank. A [r, d_in], B [d_out, r], as in HF PEFT's files, also for
GPT-2's Conv1D, whose own weight is [d_in, d_out].
"""

import math
from typing import final

import torch
from pydantic import AliasChoices, Field
from torch import Tensor, nn
from torch.nn import functional as F

from petune.kernels.low_rank import add_low_rank
from petune.methods.config import MethodConfig
from petune.methods.method import Method, Paper, Target
from petune.sites.output import OutputSlot
from petune.sites.sites import Slot


@final
class LoRAConfig(MethodConfig):
    """Settings of LoRA."""

    r: int = Field(default=8, ge=1, le=65536, validation_alias=AliasChoices("r", "lora_r"))
    """Rank of the update."""

    lora_alpha: float = Field(default=16.0, gt=0, le=1e6)
    """Numerator of the scale: alpha / r, or alpha / sqrt(r) with use_rslora."""

    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability of dropping an input of the update during training."""

    use_rslora: bool = False
    """Scale by alpha / sqrt(r) instead of alpha / r."""

    target_modules: str | tuple[str, ...] = "all-linear"
    """Linears to adapt: a role (attention, mlp, all-linear), names (q_proj, v_proj), or a pattern over module paths."""

    exclude_modules: str | tuple[str, ...] = ()
    """Linears to leave out, written the same way."""

    layers_to_transform: tuple[int, ...] | None = None
    """Indices of the blocks to adapt; all blocks if not given."""

    @property
    def scale(self) -> float:
        """The factor of the update."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)


@final
class LoRASlot(OutputSlot):
    """A and B of one linear."""

    def __init__(self, d_in: int, d_out: int, config: LoRAConfig, generator: torch.Generator) -> None:
        super().__init__()
        bound = 1 / math.sqrt(d_in)
        start = torch.empty(config.r, d_in).uniform_(-bound, bound, generator=generator)
        self.lora_A = nn.Parameter(start)
        self.lora_B = nn.Parameter(torch.zeros(d_out, config.r))
        self.scale = config.scale
        self.dropout = config.lora_dropout

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return y + s B A dropout(x)."""
        if self.dropout and self.training:
            x = F.dropout(x, self.dropout)
        return add_low_rank(x, y, self.lora_A, self.lora_B, self.scale)

    def merged_weight(self, weight: Tensor) -> Tensor:
        """Return W + s B A [d_out, d_in]."""
        return weight + self.scale * (self.lora_B @ self.lora_A)


@final
class LoRA(Method[LoRAConfig]):
    """Low-rank adaptation of chosen linears."""

    name = "lora"
    title = "LoRA"
    paper = Paper(
        "Hu et al.",
        2021,
        "LoRA: Low-Rank Adaptation of Large Language Models",
        "https://arxiv.org/abs/2106.09685",
    )
    sites = ("output",)
    learning_rate = 4e-4
    start = "exact"
    config_class = LoRAConfig

    def build(self, config: LoRAConfig, target: Target) -> dict[str, Slot]:
        """Return one slot for each chosen linear."""
        chosen = target.structure.select(
            config.target_modules, exclude=config.exclude_modules, layers=config.layers_to_transform
        )
        return {
            linear.path: LoRASlot(linear.in_features, linear.out_features, config, target.generator)
            for linear in chosen
        }
