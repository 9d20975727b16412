"""The contract of a method: a published way of tuning, as a config and the slots it plugs into a base.

A method says *what* is learned and *where*; attaching, routing, freezing, merging, saving and the training loop exist
once and know no method.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from pydantic import ValidationError
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from petune.backbone.structure import Structure
from petune.backbone.task_names import TaskName
from petune.errors import ConfigError
from petune.methods.config import MethodConfig, explain
from petune.sites.attention import Source
from petune.sites.placement import Placement
from petune.sites.sites import Slot

SiteName = Literal["embeddings", "attention", "output", "weights"]

Standing = Literal["above", "near", "works", "below"]
"""Beside full fine-tuning; `works` where the two were not compared."""


@dataclass(frozen=True, slots=True)
class Target:
    """The base that an adapter is made for; read, never changed."""

    model: PreTrainedModel
    """Possibly on the meta device, where only shapes are known."""

    structure: Structure

    tokenizer: PreTrainedTokenizerBase | None
    """None where the base came without one: a start from text is then an error."""

    generator: torch.Generator
    """The source of every random start."""

    shapes_only: bool = False
    """Whether values do not matter: saved ones will be loaded over them, or parameters are only counted."""


ConfigT = TypeVar("ConfigT", bound=MethodConfig)


@dataclass(frozen=True, slots=True)
class Parts(Generic[ConfigT]):
    """What an adapter is made of."""

    config: ConfigT
    """The settings that :meth:`Method.build` and :meth:`Method.source` make these slots and this source of."""

    slots: Mapping[str, Slot]
    """By the path they plug into."""

    source: Source | None = None
    """What computes the slots' values anew at each pass."""


@dataclass(frozen=True, slots=True)
class Paper:
    """Where a method was published."""

    authors: str
    year: int
    title: str
    url: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What was published of a method, and the runs that are like those it was found in."""

    says: str
    """A sentence, with the figures."""

    standing: Standing

    tasks: tuple[TaskName, ...] = ()
    """The tasks it is about; empty for all."""

    parameters: tuple[float, float] = (0.0, math.inf)
    """Sizes of the base it is about: the least, and the first that is too large."""

    rows_below: float = math.inf
    """Numbers of training rows it is about."""

    paper: Paper | None = None
    """Where it was published; None for the method's own paper."""

    def holds(self, task: TaskName, *, parameters: int, rows: int) -> bool:
        """Say whether it is about a run like this.

        Args:
            task: what the base is trained for.
            parameters: size of the base.
            rows: training rows.
        """
        least, too_large = self.parameters
        return (not self.tasks or task in self.tasks) and least <= parameters < too_large and rows < self.rows_below


class Method(ABC, Generic[ConfigT]):
    """One published method.

    Class attributes a method sets:
        name: the registry's name.
        title: the name people use.
        paper: where it was published; None for plain fine-tuning.
        sites: the sites it plugs into.
        config_class: its settings.
        learning_rate: the peak learning rate of AdamW used unless the user gives one.
        start: how far a fresh adapter changes the base: not at all ("exact"), hardly ("near"), or at once ("free").
        shares_batch: whether its rows may share a batch with rows of other adapters.
        trains: whether parameters are learned; if not, a run chooses among the method's candidates instead.
        baseline: whether it is what other methods are held against.
        evidence: what was published of how good it is, for `petune suggest`.
        variations: other values of what matters to it beside the rate, such as rank, length and start: the settings
            that a comparison tries in place of the usual ones, each by itself.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[Paper | None]
    sites: ClassVar[tuple[SiteName, ...]]
    learning_rate: ClassVar[float]
    start: ClassVar[Literal["exact", "near", "free"]]
    shares_batch: ClassVar[bool] = True
    trains: ClassVar[bool] = True
    baseline: ClassVar[bool] = False
    evidence: ClassVar[tuple[Finding, ...]] = ()
    variations: ClassVar[tuple[Mapping[str, Any], ...]] = ()
    config_class: type[ConfigT]

    @abstractmethod
    def build(self, config: ConfigT, target: Target) -> dict[str, Slot]:
        """Return fresh slots, by the path they plug into.

        Raises:
            TargetError: the settings name places that this base does not have.
            ConfigError: the settings cannot be met on this base.
        """

    def source(self, config: ConfigT, target: Target) -> Source | None:
        """Return what computes the slots' values anew at each pass; None for methods whose slots hold them."""
        return None

    def placement(self, config: ConfigT, structure: Structure) -> Placement | None:
        """Return where virtual tokens are written into the rows; None for methods whose rows hold text alone."""
        return None

    def bake(self, parts: Parts[ConfigT]) -> Parts[ConfigT] | None:
        """Return the form kept after training, with the same outputs; None where all that is trained is kept.

        For methods that compute what they learn from something larger (an encoder) which inference can do without.
        Checkpoints of a training run hold ``parts``, adapter folders what this returns.
        """
        return None

    def rate(self, config: ConfigT) -> float:
        """Return the peak learning rate used with these settings unless the user gives one."""
        return self.learning_rate

    def rate_factor(self, config: ConfigT, parameter: str) -> float:
        """Return the factor on the learning rate of one parameter, named as in :meth:`Adapter.tensors`."""
        return 1.0

    def candidates(self, config: ConfigT) -> tuple[Mapping[str, Any], ...]:
        """Return the ways to write the rows: options of reading that replace the run's own.

        A method that trains has one. One that does not has each of them measured, and the best is kept.
        """
        return ({},)

    def selection_metric(self, config: ConfigT) -> str | None:
        """Return the metric by which the best candidate is found; None for the one that fits the rows."""
        return None

    def configure(self, options: Mapping[str, Any]) -> ConfigT:
        """Return the settings that ``options`` describe.

        Raises:
            ConfigError: an unknown name (the nearest one is offered) or a value out of range.
        """
        try:
            return self.config_class.model_validate(dict(options))
        except ValidationError as error:
            raise ConfigError(f"method {self.name}: {explain(error, self.config_class)}") from error


@contextmanager
def without_dropout(network: nn.Module) -> Iterator[None]:
    """Let ``network`` compute inside the block what it computes after training."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)
