"""LLaMA-Adapter: learned prompts in the upper layers, attended by a softmax of their own behind a gate.

Paper: Zhang, Han, Liu, Gao, Zhou, Hu, Yan, Lu, Li, Qiao: "LLaMA-Adapter: Efficient Fine-tuning of Language Models with
Zero-init Attention" (2023), https://arxiv.org/abs/2303.16199

    softmax(s q K^T) V + tanh(g) softmax(s q K_a^T) V_a,   K_a = W_k A,  V_a = W_v A

A [P, d] are the prompts of one layer. They go through the layer's own frozen key and value projections, with no norm
before and no rotary embedding after them. The gates g, one a head, start at zero, so the base is unchanged at the
start; the prompts start from N(0, 1).

Where we differ: nothing in the maths. The authors write it for the first LLaMA; here query heads may share keys, and
the model may be any whose keys and values come from linears. What other adapters on the same rows change in these
projections holds for the prompts as well.

Shapes: P prompts a layer, d hidden width, H query heads.
"""

import math
from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from petune.backbone.attentions import Attention
from petune.backbone.structure import Structure
from petune.errors import TargetError
from petune.methods.config import MethodConfig
from petune.methods.method import Finding, Method, Paper, Target
from petune.sites.gated import GatedSlot
from petune.sites.projections import Projection, projections
from petune.sites.sites import Slot

LEFT_OUT = 16
"""One layer in this many gets no prompts, at least one: the lowest 2 of the paper's 32."""


@final
class LlamaAdapterConfig(MethodConfig):
    """Settings of LLaMA-Adapter."""

    adapter_len: int = Field(default=10, ge=1, le=4096)
    """Prompts in each adapted layer."""

    adapter_layers: int | None = Field(default=None, ge=1)
    """Layers that get prompts, counted from the top; if not given, all but the lowest sixteenth (30 of 32)."""

    gate_activation: Literal["tanh", "none"] = "tanh"
    """tanh: the factor is tanh(g), as in the authors' training; none: g itself, as their released weights want."""

    shared_gate: bool = False
    """One gate a layer, as Hugging Face PEFT has, instead of one a head."""


@final
class LlamaAdapterSlot(GatedSlot):
    """Prompts and gates of one attention.

    Args:
        projection: how the attention makes keys and values.
        heads: query heads H.
        config: the settings.
        generator: source of the start.
    """

    def __init__(
        self, projection: Projection, heads: int, config: LlamaAdapterConfig, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.prompt = nn.Parameter(torch.randn(config.adapter_len, projection.width, generator=generator))
        self.gate = nn.Parameter(torch.zeros(1 if config.shared_gate else heads))
        self.bounded = config.gate_activation == "tanh"
        self.projection = projection

    def forward(self, attention: nn.Module, query: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the keys and values [K, P, D] of the prompts, and the factor of each head [H] or of all [1]."""
        _, heads, _, width = query.shape
        keys, values = self.projection(attention, self.prompt.to(query.dtype), heads, width)
        return keys, values, self.gate.tanh() if self.bounded else self.gate


@final
class LlamaAdapter(Method[LlamaAdapterConfig]):
    """Gated prompts in the upper layers."""

    name = "llama_adapter"
    title = "LLaMA-Adapter"
    paper = Paper(
        "Zhang et al.",
        2023,
        "LLaMA-Adapter: Efficient Fine-tuning of Language Models with Zero-init Attention",
        "https://arxiv.org/abs/2303.16199",
    )
    evidence = (
        Finding(
            "LLaMA-7B answers 78.3 % of ScienceQA from text alone with 1.2 million learned numbers; on validation rows"
            " a gate that starts at zero reaches 84.0, a random start 40.8.",
            "works",
            tasks=("causal_lm",),
        ),
    )
    sites = ("attention",)
    learning_rate = 9e-3
    start = "exact"
    variations = ({"adapter_len": 5}, {"adapter_len": 30})
    config_class = LlamaAdapterConfig

    def build(self, config: LlamaAdapterConfig, target: Target) -> dict[str, Slot]:
        """Return one slot for each attention of the upper layers."""
        chosen = _upper(target.structure, config.adapter_layers)
        if not chosen:
            raise TargetError("this base has no attention modules for the prompts; methods that change outputs work")
        made = projections(target.model, target.structure, chosen)
        return {a.path: LlamaAdapterSlot(made[a.path], a.num_heads, config, target.generator) for a in chosen}


def _upper(structure: Structure, layers: int | None) -> list[Attention]:
    """Return the attentions of the upper layers: of each stack, in a model that has an encoder and a decoder."""
    stacks: dict[str, list[int]] = {}
    for index, path in enumerate(structure.blocks):
        stacks.setdefault(path.rpartition(".")[0], []).append(index)
    chosen: set[int] = set()
    for stack in stacks.values():
        if layers is not None and layers > len(stack):
            raise TargetError(f"adapter_layers is {layers}, but this base has {len(stack)} layers; give at most that")
        count = max(1, len(stack) - math.ceil(len(stack) / LEFT_OUT)) if layers is None else layers
        chosen.update(stack[-count:])
    return [attention for attention in structure.attentions if attention.block in chosen]
