"""P-tuning v2: deep prompts, learned keys and values at every layer, for understanding as well as for generation.

Paper: Liu, Ji, Fu, Tam, Du, Yang, Tang: "P-Tuning v2: Prompt Tuning Can Be Comparable to Fine-tuning Universally
Across Scales and Tasks" (2022), https://arxiv.org/abs/2110.07602

    softmax(q [P_k; K]^T / sqrt(D)) [P_v; V],   P_k and P_v [K, P, D] learned at every layer

It is prefix tuning without the network unless one is asked for (``prefix_projection``), with dropout on the keys and
values, and with a task's own head where prefix tuning generates.

Where we differ: the authors' code draws from N(0, 0.02^2), far smaller than real keys and values; ours start as those
of sampled common tokens.

Shapes: P virtual tokens, K key-value heads, D head width.
"""

from typing import final

from pydantic import Field

from petune.methods.keys_values import KeysValuesConfig, KeysValuesMethod
from petune.methods.method import Finding, Paper


@final
class PTuningV2Config(KeysValuesConfig):
    """Settings of P-tuning v2."""

    prefix_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the numbers of keys and values that are dropped in training."""


@final
class PTuningV2(KeysValuesMethod[PTuningV2Config]):
    """Deep prompts at every layer."""

    name = "p_tuning_v2"
    title = "P-tuning v2"
    paper = Paper(
        "Liu et al.",
        2022,
        "P-Tuning v2: Prompt Tuning Can Be Comparable to Fine-tuning Universally Across Scales and Tasks",
        "https://arxiv.org/abs/2110.07602",
    )
    evidence = (
        Finding(
            "Comparable to full fine-tuning, on small bases too: 86.6 on RTE with RoBERTa-large.",
            "near",
            tasks=("sequence_classification",),
        ),
        Finding(
            "Comparable to full fine-tuning on sequence labelling too: 91.8 on CoNLL03 with RoBERTa-large.",
            "near",
            tasks=("token_classification",),
        ),
        Finding(
            "Comparable to full fine-tuning on reading comprehension too: SQuAD 1.1 at 88.1 exact match and 94.2 F1"
            " with RoBERTa-large.",
            "near",
            tasks=("question_answering",),
        ),
    )
    learning_rate = 1e-2
    config_class = PTuningV2Config
