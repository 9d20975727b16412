"""Prefix tuning: learned keys and values in front of every attention.

Paper: Li, Liang: "Prefix-Tuning: Optimizing Continuous Prompts for Generation" (2021),
https://arxiv.org/abs/2101.00190

    softmax(q [P_k; K]^T / sqrt(D)) [P_v; V],   P_k and P_v [K, P, D] learned at every layer

With ``prefix_projection`` they are computed by the paper's network while training. ``placement: infix`` hides the
prefix from the prompt x, as in the paper's [x; infix; y]: the last token of x, which predicts the first of y, and y
itself see it.

Where we differ: the authors draw a direct prefix from N(0, 1). Keys and values of real models are far from that, and
differ from layer to layer, so ours start as the keys and values the base makes of tokens: sampled ones, or those of a
text. That is their "real word" start, for any base. They fit the network to it by 500 epochs of Adam; we solve for
its last layer, which is exact. An infix keeps the positions of a prefix.

Shapes: P virtual tokens, K key-value heads, D head width.
"""

from typing import Literal, final

from petune.errors import ConfigError
from petune.methods.keys_values import KeysValuesConfig, KeysValuesMethod
from petune.methods.method import Paper, Target


@final
class PrefixTuningConfig(KeysValuesConfig):
    """Settings of prefix tuning."""

    placement: Literal["prefix", "infix"] = "prefix"
    """prefix: seen by every token; infix: hidden from the prompt, seen where the answer is predicted."""


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
    learning_rate = 1e-2
    config_class = PrefixTuningConfig

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
