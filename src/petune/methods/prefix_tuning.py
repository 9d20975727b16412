"""Prefix tuning: learned keys and values in front of every attention.

Paper: Li, Liang: "Prefix-Tuning: Optimizing Continuous Prompts for Generation" (2021),
https://arxiv.org/abs/2101.00190

    softmax(q [P_k; K]^T / sqrt(D)) [P_v; V],   P_k and P_v [K, P, D] learned at every layer

With ``prefix_projection`` they are computed by the paper's network while training. ``placement: infix`` hides the
prefix from the prompt x, as in the paper's [x; infix; y]: the last token of x, which predicts the first of y, and y
itself see it. ``prefix_gate`` starts from the unchanged base. Inside one softmax no start does that and learns: a key
takes a share of it, unless its score is so low that no gradient comes back. So a gated prefix has a softmax of its own,

    softmax(q K^T / sqrt(D)) V + tanh(g) softmax(q P_k^T / sqrt(D)) P_v,   g [H] learned, zero at the start

as in LLaMA-Adapter (Zhang et al. 2023, https://arxiv.org/abs/2303.16199).

Where we differ: the authors draw a direct prefix from N(0, 1). Keys and values of real models are far from that, and
differ from layer to layer, so ours start as the keys and values the base makes of tokens: sampled ones, or those of a
text. That is their "real word" start, for any base. They fit the network to it by 500 epochs of Adam; we solve for
its last layer, which is exact. An infix keeps the positions of a prefix.

Shapes: P virtual tokens, H query heads, K key-value heads, D head width.
"""

from typing import Literal, Self, final

import torch
from pydantic import model_validator
from torch import Tensor, nn

from petune.errors import ConfigError
from petune.methods.keys_values import KeysValuesConfig, KeysValuesMethod, PrefixSlot
from petune.methods.method import Finding, Paper, Target
from petune.sites.gated import GatedSlot
from petune.sites.sites import Slot


@final
class PrefixTuningConfig(KeysValuesConfig):
    """Settings of prefix tuning."""

    placement: Literal["prefix", "infix"] = "prefix"
    """prefix: seen by every token; infix: hidden from the prompt, seen where the answer is predicted."""

    prefix_gate: bool = False
    """Give the prefix a softmax of its own behind a gate, so that the start leaves the base unchanged."""

    @model_validator(mode="after")
    def _gate_goes_alone(self) -> Self:
        if self.prefix_gate and (self.prefix_projection or self.placement == "infix"):
            raise ValueError(
                "prefix_gate is for a prefix that is learned directly and seen by every token; leave out"
                " prefix_projection and placement=infix"
            )
        if self.prefix_gate and not self.shift_positions:
            raise ValueError("a gated prefix takes no positions anyway; leave out shift_positions")
        return self


@final
class GatedPrefixSlot(GatedSlot):
    """The learned keys and values of one attention, and the gate of each of its heads.

    Args:
        prefix: keys and values.
        heads: query heads H.
    """

    def __init__(self, prefix: PrefixSlot, heads: int) -> None:
        super().__init__()
        self.prefix = prefix
        self.gate = nn.Parameter(torch.zeros(heads))

    def forward(self, attention: nn.Module, query: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return keys and values [K, P, D] and the gate of each head [H]."""
        keys, values = self.prefix.keys_values()
        return keys, values, self.gate.tanh()


@final
class PrefixTuning(KeysValuesMethod[PrefixTuningConfig]):
    """Learned keys and values at every layer."""

    name = "prefix_tuning"
    title = "prefix tuning"
    paper = Paper(
        "Li and Liang",
        2021,
        "Prefix-Tuning: Optimizing Continuous Prompts for Generation",
        "https://arxiv.org/abs/2101.00190",
    )
    evidence = (
        Finding(
            "Better than full fine-tuning on table-to-text, slightly worse on summarisation, with about 0.1 % of the"
            " parameters.",
            "near",
            tasks=("causal_lm", "seq2seq_lm"),
        ),
        Finding(
            "With little data a random start is weak and unstable; the activations of real words, as petune starts, are"
            " much better.",
            "works",
            tasks=("causal_lm", "seq2seq_lm"),
            rows_below=500,
        ),
    )
    learning_rate = 1e-2
    config_class = PrefixTuningConfig

    def build(self, config: PrefixTuningConfig, target: Target) -> dict[str, Slot]:
        """Return one slot for every attention."""
        slots = super().build(config, target)
        if not config.prefix_gate:
            return slots
        heads = {attention.path: attention.num_heads for attention in target.structure.attentions}
        prefixes = {path: slot for path, slot in slots.items() if isinstance(slot, PrefixSlot)}
        return {path: GatedPrefixSlot(slot, heads[path]) for path, slot in prefixes.items()}

    def hidden_from_prompt(self, config: PrefixTuningConfig, target: Target) -> bool:
        """Say whether it is an infix.

        Raises:
            ConfigError: the base does not read left to right, so that no token comes before the answer.
        """
        infix = config.placement == "infix"
        if infix and not target.structure.is_decoder_lm:
            raise ConfigError(
                f"placement is infix, which needs a decoder, and this base is of kind {target.structure.kind}; use"
                " placement=prefix"
            )
        return infix
