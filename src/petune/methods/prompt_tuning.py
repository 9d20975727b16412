"""Prompt tuning: virtual tokens in front of the input, learned as embeddings.

Paper: Lester, Al-Rfou, Constant: "The Power of Scale for Parameter-Efficient Prompt Tuning" (2021),
https://arxiv.org/abs/2104.08691

    [P; X] instead of X,   P [P, d] learned, the model frozen

How we compute it: in a causal model no virtual token sees the input, so what the layers make of P is the same for every
row. It is computed once a step and attended by all rows as keys and values, which is exact, instead of once a row. Real
tokens keep the positions they would have behind P.

Where we differ: we start from sampled vocabulary by default. ``random_uniform`` is the authors' random start, a fixed
interval that suits T5's scale; ``random`` has the mean and spread of the base's own embeddings.

Shapes: P virtual tokens, d hidden width.
"""

import math
from typing import Literal, Self, final

import torch
from pydantic import Field, model_validator
from torch import Tensor

from petune.backbone.structure import Structure
from petune.methods.config import MethodConfig
from petune.methods.method import Finding, Method, Paper, Target
from petune.methods.soft_prompt import SoftPrompt, soft_prompt_slots, stands_outside_rows
from petune.methods.starts import common_ids, label_embeddings, read_matrix, start_ids
from petune.sites.attention import Source
from petune.sites.embeddings import embedding_width, token_embeddings
from petune.sites.placement import Combine, Place, Placement
from petune.sites.sites import Slot

UNIFORM_RANGE = 0.5
"""Range of the evenly drawn start unless one is given, as in the paper."""


@final
class PromptTuningConfig(MethodConfig):
    """Settings of prompt tuning."""

    num_virtual_tokens: int = Field(default=20, ge=1, le=4096)
    """Length of the prompt, in tokens."""

    prompt_tuning_init: Literal["vocabulary", "text", "class_labels", "random", "random_uniform", "file"] = "vocabulary"
    """Start: embeddings of common tokens, a text or class labels; random numbers like embeddings, or even; a file."""

    prompt_tuning_init_text: str | None = None
    """Text of the start; repeated where it is shorter than the prompt."""

    prompt_tuning_init_labels: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Class labels of the start: the mean embedding of each one's tokens; the rest is common tokens."""

    prompt_tuning_init_range: float | None = Field(default=None, gt=0)
    """Random numbers of the start lie between minus this and this (0.5 where none is given)."""

    prompt_tuning_init_file: str | None = None
    """File of the start: .safetensors with one tensor, or .npy; num_virtual_tokens x hidden width."""

    placement: Place = "prepend"
    """Where the prompt stands: before everything, behind the token that begins a text, or after the row's prompt."""

    num_prompts: int = Field(default=1, ge=1, le=256)
    """Prompts trained side by side as an ensemble; each row goes through all of them in one batch."""

    ensemble: Combine = "average"
    """How the prompts' answers become one: mean of the labels' probabilities, or most votes (text: always votes)."""

    @model_validator(mode="after")
    def _each_setting_has_its_start(self) -> Self:
        own = {"text": "text", "labels": "class_labels", "file": "file", "range": "random_uniform"}
        for setting, start in own.items():
            given = getattr(self, f"prompt_tuning_init_{setting}") is not None
            missing = self.prompt_tuning_init == start and not given and setting != "range"
            if missing or (given and self.prompt_tuning_init != start):
                raise ValueError(
                    f"prompt_tuning_init={start} and prompt_tuning_init_{setting} go together; give both or neither"
                )
        drawn = self.prompt_tuning_init not in ("text", "file") and (
            len(self.prompt_tuning_init_labels or ()) < self.num_virtual_tokens
        )
        if self.num_prompts > 1 and not drawn:
            raise ValueError(
                f"num_prompts is {self.num_prompts}, and prompt_tuning_init={self.prompt_tuning_init} starts all"
                " prompts alike, so that they would stay alike; choose vocabulary, random or random_uniform"
            )
        return self


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
    evidence = (
        Finding(
            "Comes near full fine-tuning from about 10 billion parameters on.",
            "near",
            tasks=("causal_lm", "seq2seq_lm"),
            parameters=(1e10, math.inf),
        ),
        Finding(
            "Comes near full fine-tuning only from about 10 billion parameters on.",
            "below",
            tasks=("causal_lm", "seq2seq_lm"),
            parameters=(0, 1e10),
        ),
    )
    sites = ("embeddings", "attention")
    learning_rate = 6e-2
    start = "free"
    variations = ({"num_virtual_tokens": 5}, {"num_virtual_tokens": 50}, {"prompt_tuning_init": "random"})
    config_class = PromptTuningConfig

    def build(self, config: PromptTuningConfig, target: Target) -> dict[str, Slot]:
        """Return a slot for every attention, or for the input embeddings; their values come from the prompt."""
        return soft_prompt_slots(target, config.num_virtual_tokens, self.placement(config, target.structure))

    def source(self, config: PromptTuningConfig, target: Target) -> Source:
        """Return the prompts at their starts."""
        return SoftPrompt(torch.cat([_start(config, target) for _ in range(config.num_prompts)]))

    def placement(self, config: PromptTuningConfig, structure: Structure) -> Placement | None:
        """Return where the prompt stands in a row; None where no row need hold it, for all share what is made of it."""
        if config.placement == "prepend" and config.num_prompts == 1 and stands_outside_rows(structure):
            return None
        return Placement.at(
            config.placement, config.num_virtual_tokens, versions=config.num_prompts, combine=config.ensemble
        )


def _start(config: PromptTuningConfig, target: Target) -> Tensor:
    """Return the start [P, d]."""
    length, width = config.num_virtual_tokens, embedding_width(target.model)
    if target.shapes_only:
        return torch.zeros(length, width)
    match config.prompt_tuning_init:
        case "random":
            common = token_embeddings(target.model, common_ids(target)).float()
            noise = torch.randn(length, width, generator=target.generator)
            return noise.to(common.device) * common.std() + common.mean(0)
        case "random_uniform":
            bound = config.prompt_tuning_init_range or UNIFORM_RANGE
            return torch.empty(length, width).uniform_(-bound, bound, generator=target.generator)
        case "class_labels":
            labels = config.prompt_tuning_init_labels or ()
            return label_embeddings(target, length, labels, setting="prompt_tuning_init_labels")
        case "file":
            path = config.prompt_tuning_init_file or ""
            return read_matrix(path, (length, width), setting="prompt_tuning_init_file")
    ids = start_ids(target, length, config.prompt_tuning_init_text, setting="prompt_tuning_init_text")
    return token_embeddings(target.model, ids)
