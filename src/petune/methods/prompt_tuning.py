"""Prompt tuning: virtual tokens in front of the input, learned as embeddings.

Paper: Lester, Al-Rfou, Constant: "The Power of Scale for Parameter-Efficient Prompt Tuning" (2021),
https://arxiv.org/abs/2104.08691

    [P; X] instead of X,   P [P, d] learned, the model frozen

How we compute it: in a causal model no virtual token sees the input, so what the layers make of P is the same for every
row. It is computed once a step and attended by all rows as keys and values, which is exact, instead of once a row. Real
tokens keep the positions they would have behind P.

Where we differ: a random start is drawn at the spread of the base's own embeddings; the authors draw from a fixed
interval, which suits T5's scale.

Shapes: P virtual tokens, d hidden width.
"""

from collections.abc import Mapping
from typing import Literal, Self, final

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from petune.methods.config import MethodConfig
from petune.methods.method import Method, Paper, Target
from petune.methods.starts import COMMON_TOKENS, start_ids
from petune.sites.attention import KeysValues, Reader, Source, SourcedSlot
from petune.sites.sites import Slot


@final
class PromptTuningConfig(MethodConfig):
    """Settings of prompt tuning."""

    num_virtual_tokens: int = Field(default=20, ge=1, le=4096)
    """Length of the prompt, in tokens."""

    prompt_tuning_init: Literal["vocabulary", "random", "text"] = "vocabulary"
    """Start: embeddings of sampled common tokens, random numbers of the same spread, or those of a text."""

    prompt_tuning_init_text: str | None = None
    """Text of the start; repeated where it is shorter than the prompt."""

    @model_validator(mode="after")
    def _text_goes_with_text(self) -> Self:
        if (self.prompt_tuning_init == "text") != (self.prompt_tuning_init_text is not None):
            raise ValueError("prompt_tuning_init=text and prompt_tuning_init_text go together; give both or neither")
        return self


@final
class Prompt(Source):
    """The learned embeddings.

    Args:
        start: their start [P, d].
    """

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.prompt_embeddings = nn.Parameter(start.detach().to(torch.float32, copy=True))

    def forward(self, read: Reader) -> Mapping[str, KeysValues]:
        """Return the keys and values the base makes of the prompt."""
        return read(self.prompt_embeddings)


@final
class PromptTuning(Method[PromptTuningConfig]):
    """Learned virtual tokens before the input."""

    name = "prompt_tuning"
    title = "prompt tuning"
    paper = Paper(
        "Lester et al.",
        2021,
        "The Power of Scale for Parameter-Efficient Prompt Tuning",
        "https://arxiv.org/abs/2104.08691",
    )
    sites = ("embeddings", "attention")
    learning_rate = 2e-2
    start = "free"
    config_class = PromptTuningConfig

    def build(self, config: PromptTuningConfig, target: Target) -> dict[str, Slot]:
        """Return a slot for every attention; their values come from the prompt."""
        return {a.path: SourcedSlot(config.num_virtual_tokens) for a in target.structure.attentions}

    def source(self, config: PromptTuningConfig, target: Target) -> Source:
        """Return the prompt at its start."""
        table = target.model.get_input_embeddings().weight
        assert isinstance(table, Tensor)
        return Prompt(_start(config, table.detach(), target))


def _start(config: PromptTuningConfig, table: Tensor, target: Target) -> Tensor:
    """Return the start [P, d], from the embedding table [V, d]."""
    length = config.num_virtual_tokens
    if table.is_meta:
        return torch.zeros(length, table.shape[1])
    table = table.to(torch.float32)
    if config.prompt_tuning_init == "random":
        common = table[:COMMON_TOKENS]
        noise = torch.randn(length, table.shape[1], generator=target.generator)
        return noise.to(table.device) * common.std() + common.mean(0)
    ids = start_ids(target, length, config.prompt_tuning_init_text, setting="prompt_tuning_init_text")
    return table[ids.to(table.device)]
