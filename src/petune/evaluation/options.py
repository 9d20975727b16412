"""The settings of evaluation and of generation."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

ESCAPES = "escapes"
"""Marks a setting whose texts are hard to type: on the command line they may hold escapes such as ``\\n``."""


class GenerationOptions(BaseModel):
    """How text is generated from a prompt."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    max_new_tokens: int = Field(default=128, ge=1, le=1_000_000)
    """Most tokens generated for one prompt."""
    temperature: float = Field(default=0.0, ge=0.0, le=100.0, allow_inf_nan=False)
    """Divides the logits before sampling; 0 takes the likeliest token each time (greedy)."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Sample among the likeliest tokens whose probabilities add up to this share; 1 for all."""
    top_k: int = Field(default=0, ge=0)
    """Sample among this many likeliest tokens; 0 for all."""
    num_beams: int = Field(default=1, ge=1, le=1024)
    """Beams of a beam search; 1 for none."""
    repetition_penalty: float = Field(default=1.0, gt=0.0, le=100.0, allow_inf_nan=False)
    """Divides the score of a token that has occurred already; 1 for no penalty."""
    stop: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], ESCAPES] = ()
    """Texts that end the generation; the result is cut before them. On the command line `\\n` and `\\t` stand for a
    line break and a tab."""
    seed: int = Field(default=42, ge=0, lt=2**63)
    """Seed of the sampling, in which a row's number counts and the rows beside it do not; idle at temperature 0."""
    batch_tokens: int = Field(default=8192, ge=1)
    """Most tokens of one batch: rows times (longest prompt + max_new_tokens). One row always fits."""

    @model_validator(mode="after")
    def _choice_has_chances(self) -> Self:
        idle = [name for name, usual in (("top_p", 1), ("top_k", 0)) if getattr(self, name) != usual]
        if idle and self.temperature == 0:
            raise ValueError(
                f"{' and '.join(idle)} would do nothing at temperature 0, where the likeliest token is taken each time;"
                " give a temperature, such as 0.7, or leave it out"
            )
        return self


class EvaluationOptions(BaseModel):
    """What is measured, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    metrics: tuple[str, ...] = ()
    """Names of metrics, or ``file.py:function`` for one of your own; empty for those that fit the data."""
    labels: tuple[str, ...] = ()
    """The label words compared in classification; empty for the distinct targets of the data."""
    batch_tokens: int = Field(default=8192, ge=1)
    """Most tokens of one batch, padding included. One row always fits."""
    max_new_tokens: int = Field(default=128, ge=1, le=1_000_000)
    """Most tokens generated for a row, for the metrics that compare generated text."""

    @property
    def generation(self) -> GenerationOptions:
        """How text is generated to be measured: greedily."""
        return GenerationOptions(max_new_tokens=self.max_new_tokens, batch_tokens=self.batch_tokens)
