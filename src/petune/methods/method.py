"""The contract of a method: a published way of tuning, as a config and the slots it plugs into a base.

A method says *what* is learned and *where*; attaching, routing, freezing, merging, saving and the training loop exist
once and know no method.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from pydantic import ValidationError
from torch import nn

from petune.backbone.structure import Structure
from petune.errors import ConfigError
from petune.methods.config import MethodConfig, explain
from petune.sites.sites import Slot

SiteName = Literal["embeddings", "attention", "output", "weights"]


ConfigT = TypeVar("ConfigT", bound=MethodConfig)


@dataclass(frozen=True, slots=True)
class Paper:
    """Where a method was published."""

    authors: str
    year: int
    title: str
    url: str


class Method(ABC, Generic[ConfigT]):
    """One published method.

    Class attributes a method sets:
        name: the registry's name.
        title: the name people use.
        paper: where it was published; None for plain fine-tuning.
        sites: the sites it plugs into.
        config_class: its settings.
        learning_rate: the peak learning rate of AdamW used unless the user gives one.
        shares_batch: whether its rows may share a batch with rows of other adapters.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[Paper | None]
    sites: ClassVar[tuple[SiteName, ...]]
    learning_rate: ClassVar[float]
    shares_batch: ClassVar[bool] = True
    config_class: type[ConfigT]

    @abstractmethod
    def build(
        self, config: ConfigT, model: nn.Module, structure: Structure, generator: torch.Generator
    ) -> dict[str, Slot]:
        """Return fresh slots, by the path they plug into.

        Args:
            config: the settings.
            model: the base, possibly on the meta device; read, never changed.
            structure: what is known of the base.
            generator: the source of every random start.

        Raises:
            TargetError: the settings name places this base does not have.
        """

    def configure(self, options: Mapping[str, Any]) -> ConfigT:
        """Return the settings that ``options`` describe.

        Raises:
            ConfigError: an unknown name (the nearest one is offered) or a value out of range.
        """
        try:
            return self.config_class.model_validate(dict(options))
        except ValidationError as error:
            raise ConfigError(f"method {self.name}: {explain(error, self.config_class)}") from error
