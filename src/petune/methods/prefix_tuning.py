"""Prefix tuning: learned keys and values in front of every attention.

Paper: Li, Liang: "Prefix-Tuning: Optimizing Continuous Prompts for Generation" (2021),
https://arxiv.org/abs/2101.00190

    softmax(q [P_k; K]^T / sqrt(D)) [P_v; V],   P_k and P_v [K, P, D] learned at every layer

Without ``prefix_projection`` the keys and values are learned directly (Liu et al. 2021, "P-Tuning v2",
https://arxiv.org/abs/2110.07602, does the same at every layer).

Where we differ: the authors draw a direct prefix from N(0, 1). Keys and values of real models are far from that, and
differ from layer to layer, so ours start as the keys and values the base makes of tokens: sampled ones, or those of a
text. That is their "real word" start, for any base.

Shapes: P virtual tokens, K key-value heads, D head width.
"""

from typing import Literal, Self, final

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from petune.methods.config import MethodConfig
from petune.methods.method import Method, Paper, Target
from petune.methods.starts import start_ids
from petune.sites.attention import AttentionSlot, KeysValues, read_keys_values
from petune.sites.routing import Stack
from petune.sites.sites import Slot


@final
class PrefixTuningConfig(MethodConfig):
    """Settings of prefix tuning."""

    num_virtual_tokens: int = Field(default=20, ge=1, le=4096)
    """Length of the prefix, in tokens."""

    prefix_init: Literal["vocabulary", "text"] = "vocabulary"
    """Start: the base's own keys and values for sampled common tokens, or for a text."""

    prefix_init_text: str | None = None
    """Text of the start; repeated where it is shorter than the prefix."""

    @model_validator(mode="after")
    def _text_goes_with_text(self) -> Self:
        if (self.prefix_init == "text") != (self.prefix_init_text is not None):
            raise ValueError("prefix_init=text and prefix_init_text go together; give both or neither")
        return self


@final
class PrefixSlot(AttentionSlot):
    """The learned keys and values of one attention.

    Args:
        keys: start of the keys [K, P, D].
        values: start of the values [K, P, D].
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys = nn.Parameter(keys.detach().to(torch.float32).clone(memory_format=torch.contiguous_format))
        self.values = nn.Parameter(values.detach().to(torch.float32).clone(memory_format=torch.contiguous_format))
        self.position_shift = keys.shape[1]

    def forward(self, stack: Stack) -> KeysValues:
        """Return keys and values [K, P, D]."""
        return self.keys, self.values


@final
class PrefixTuning(Method[PrefixTuningConfig]):
    """Learned keys and values at every layer."""

    name = "prefix_tuning"
    title = "prefix tuning"
    paper = Paper(
        "Li and Liang",
        2021,
        "Prefix-Tuning: Optimizing Continuous Prompts for Generation",
        "https://arxiv.org/abs/2101.00190",
    )
    sites = ("attention",)
    learning_rate = 1e-2
    start = "free"
    config_class = PrefixTuningConfig

    def build(self, config: PrefixTuningConfig, target: Target) -> dict[str, Slot]:
        """Return one slot for every attention."""
        start = _start(config, target)
        return {path: PrefixSlot(keys, values) for path, (keys, values) in start.items()}


def _start(config: PrefixTuningConfig, target: Target) -> dict[str, KeysValues]:
    """Return keys and values [K, P, D] by the path of the attention."""
    attentions, length = target.structure.attentions, config.num_virtual_tokens
    if target.model.device.type == "meta":
        return {a.path: (torch.zeros(a.num_kv_heads, length, a.head_dim),) * 2 for a in attentions}
    text = config.prefix_init_text if config.prefix_init == "text" else None
    ids = start_ids(target, length, text, setting="prefix_init_text")
    return read_keys_values(target.model, tuple(a.path for a in attentions), ids)
