"""What a comparison keeps: a record for each trial, and all of them together.

The records are plain values. A trial is written once, when it has ended, and the report is a function of the records
alone, so that it can be made again anywhere, without a model or a GPU.
"""

from pathlib import PurePosixPath
from typing import Any, Literal, Self, final

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Stage = Literal["floor", "search", "final"]
"""``floor``: the untrained base; ``search``: a trial on the way to a method's settings; ``final``: what is compared."""

Status = Literal["done", "failed", "out_of_memory", "refused"]
"""How a trial ended; ``refused``: it was not started, because it could not have worked."""

# Infinities (a perplexity, say) have no spelling of their own in JSON.
_RECORD = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, ser_json_inf_nan="strings")


@final
class Budget(BaseModel):
    """How much a trial may train."""

    model_config = _RECORD

    unit: Literal["tokens", "steps", "seconds", "epochs"]
    """What is counted."""

    amount: float = Field(ge=0)
    """How many of them; 0 for a trial that does not train."""


@final
class CurvePoint(BaseModel):
    """The losses at one moment of a training."""

    model_config = _RECORD

    step: int = Field(ge=0)
    """Optimiser steps done."""

    tokens: int = Field(ge=0)
    """Tokens trained on so far, padding left out."""

    seconds: float = Field(ge=0)
    """Time of training so far, evaluations left out."""

    train_loss: float | None = None
    """Mean training loss since the point before (nats per label token)."""

    eval_loss: float | None = None
    """Validation loss, where it was measured at this step (nats per label token)."""


@final
class Forgetting(BaseModel):
    """What became of skills that were not trained; before: the base, after: with the adapter."""

    model_config = _RECORD

    neutral_loss_before: float
    """Loss on neutral held-out text (nats per token)."""

    neutral_loss_after: float
    """The same with the adapter."""

    answer_tokens_before: float | None = Field(default=None, ge=0)
    """Mean length of an answer (tokens)."""

    answer_tokens_after: float | None = Field(default=None, ge=0)
    """The same with the adapter."""

    other_language_share_before: float | None = Field(default=None, ge=0, le=1)
    """Share of the answers in another language than their prompt."""

    other_language_share_after: float | None = Field(default=None, ge=0, le=1)
    """The same with the adapter."""


@final
class ExampleAnswer(BaseModel):
    """One row of the test split and what the trial answered to it."""

    model_config = _RECORD

    prompt: str
    """What the model was asked."""

    reference: str | None = None
    """The right answer; the first of several."""

    other_references: list[str] = Field(default_factory=list)
    """The answers that are right besides."""

    answer: str
    """The answer given."""

    row: int | None = Field(default=None, ge=1)
    """Its number in the test split, from 1; None in records of before it was kept."""


@final
class Trial(BaseModel):
    """One ended trial: a method with its settings on a base, for one seed."""

    model_config = _RECORD

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)
    """Name of its folder; made from all that identifies it."""

    base: str
    """The base model: hub id, path or ``demo``."""

    method: str
    """Name of the method in petune's registry."""

    entry: str = ""
    """The line of the recipe that it belongs to, with the settings given there."""

    settings: dict[str, Any]
    """The keys of a recipe that set it apart: the method's own settings and the learning rate."""

    seed: int
    """Seed of the start and of the order of rows."""

    stage: Stage
    """What the trial was for."""

    rung: int | None = Field(default=None, ge=0)
    """Round of the search, from 0; None outside a search."""

    budget: Budget
    """How much it was allowed to train."""

    status: Status
    """How it ended."""

    reason: str | None = None
    """Why it did not end well; None where it did."""

    trainable_parameters: int | None = Field(default=None, ge=0)
    """Numbers learned."""

    trainable_share: float | None = Field(default=None, ge=0)
    """Numbers learned for each of the base, 0 to 1 unless more are learned than the base has."""

    bytes_stored: int | None = Field(default=None, ge=0)
    """Size of what is kept for the task (bytes)."""

    metric: str
    """Name of the metric that decides."""

    higher_is_better: bool
    """Whether more of it is better."""

    development: dict[str, float] = Field(default_factory=dict)
    """Metrics on the development split, by name."""

    test: dict[str, float] = Field(default_factory=dict)
    """Metrics on the test split, by name; the search never sees that split."""

    scores: list[float] = Field(default_factory=list)
    """Score of each test row in the file's order, better in the direction of the metric (a 0 or 1, a loss)."""

    curve: list[CurvePoint] = Field(default_factory=list)
    """The losses in the course of training."""

    best_step: int | None = Field(default=None, ge=0)
    """Step of the least validation loss."""

    train_loss: float | None = None
    """Training loss at the end (nats per label token)."""

    eval_loss: float | None = None
    """Validation loss at the end (nats per label token)."""

    best_eval_loss: float | None = None
    """Least validation loss (nats per label token)."""

    peak_memory_bytes: int | None = Field(default=None, ge=0)
    """Most memory held while training (bytes)."""

    trials_in_pass: int = Field(default=1, ge=1)
    """Trials that trained in the same pass over the base; where there are several, times are this one's part."""

    seconds: float | None = Field(default=None, ge=0)
    """Time of training, evaluations left out (seconds)."""

    wall_seconds: float | None = Field(default=None, ge=0)
    """Time of all of the trial, everything that was measured included (seconds)."""

    tokens_per_second: float | None = Field(default=None, ge=0)
    """Tokens trained on in a second."""

    can_generate: bool = False
    """Whether its base writes text."""

    generation_tokens_per_second: float | None = Field(default=None, ge=0)
    """Tokens written in a second."""

    generation_latency_ratio: float | None = Field(default=None, ge=0)
    """Time of a written token, as a multiple of the bare base's."""

    forgetting: Forgetting | None = None
    """What was lost of other skills, where it was measured."""

    examples: list[ExampleAnswer] = Field(default_factory=list)
    """Answers to a few rows of the test split, the same rows in every trial."""

    command: str
    """The exact command that repeats the trial alone."""

    adapter: str | None = None
    """The adapter's folder, relative to the comparison's."""

    @field_validator("adapter")
    @classmethod
    def _stay_inside(cls, adapter: str | None) -> str | None:
        if adapter is not None and (PurePosixPath(adapter).is_absolute() or ".." in PurePosixPath(adapter).parts):
            raise ValueError(f"got '{adapter}', expected a path inside the comparison's folder")
        return adapter

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if (self.status == "done") != (self.reason is None):
            raise ValueError(f"a trial that is '{self.status}' and the reason {self.reason!r} do not go together")
        if (self.stage == "search") != (self.rung is not None):
            raise ValueError(f"stage '{self.stage}' and rung {self.rung} do not go together: only a search has rungs")
        if self.stage != "search" and self.trials_in_pass > 1:
            raise ValueError(
                f"a trial of stage '{self.stage}' shared a pass, so its time and memory cannot be compared"
            )
        if self.stage == "search" and (self.test or self.scores):
            raise ValueError("a trial of the search has figures of the test split, which is kept from the search")
        return self

    @property
    def quality(self) -> float | None:
        """The chosen metric on the test split, or on the development split in a search; None where none was taken."""
        return (self.development if self.stage == "search" else self.test).get(self.metric)


@final
class SearchCost(BaseModel):
    """What finding the settings cost."""

    model_config = _RECORD

    trials: int = Field(default=0, ge=0)
    """Trials of the search."""

    seconds: float = Field(default=0.0, ge=0)
    """Their time."""

    tokens: int = Field(default=0, ge=0)
    """Tokens they trained on."""


@final
class Comparison(BaseModel):
    """A comparison as far as it has come."""

    model_config = _RECORD

    version: Literal[1] = 1
    """Version of this format."""

    recipe: dict[str, Any]
    """What was asked for, with every default filled in."""

    command: str
    """The exact command that repeats all of it."""

    started_from: str | None = None
    """The folder in which the commands hold, relative to the comparison's; None in records of before it was kept."""

    trust_remote_code: bool = False
    """Whether the bases were allowed to run their own code."""

    created: str
    """When it began (ISO 8601)."""

    finished: str | None = None
    """When the last trial ended (ISO 8601); None while some are still to run."""

    machine: dict[str, Any]
    """Readable facts of the machine: processor, cores, memory, accelerator, versions of packages."""

    earlier_machines: list[dict[str, Any]] = []
    """The same facts of each earlier call whose trials ran elsewhere, or with other packages or threads."""

    petune_version: str
    """Version of petune that ran it."""

    data: dict[str, str]
    """SHA-256 of the rows, by their path in the folder; of each source, local base and other file that was named."""

    search_cost: SearchCost = SearchCost()
    """What finding the settings cost."""

    trials: list[Trial]
    """The trials that have ended."""
