"""The recipe of a comparison: which methods, on which bases, with which data, budget and seeds.

Its keys are one flat set. Those that `petune train` has for the data and for the optimisation mean the same here and
hold for every trial.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, final

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from petune import methods as registry
from petune.backbone.quantization_names import Quantization
from petune.backbone.task_names import TaskName
from petune.comparison.method_entry import MethodEntry
from petune.data.options import DataOptions
from petune.errors import ConfigError, nearest
from petune.methods.config import explain
from petune.training.byte_sizes import read_bytes
from petune.training.options import TrainingOptions
from petune.training.paths import FolderName
from petune.training.recipe import read_yaml

ALL = "all"
"""In the place of methods: every method there is."""

DEVELOPMENT_SHARE = 0.1
TEST_SHARE = 0.2

BudgetUnit = Literal["epochs", "steps", "tokens", "seconds"]
EngineName = Literal["local", "inline", "ray"]
_OF_ENGINES: Mapping[str, tuple[EngineName, ...]] = {
    **dict.fromkeys(("gpus_per_trial", "memory_per_trial", "ray_address"), ("ray",)),
    "retries": ("local", "ray"),
}
"""Keys that only some engines have a use for."""
DEFAULT_RETRIES = 1

# What the comparison decides itself for each trial, so that trials can be compared.
_DECIDED = frozenset(
    {
        "learning_rate",
        "num_train_epochs",
        "max_steps",
        "tokens_per_step",
        "module_learning_rates",
        "seed",
        "eval_steps",
        "metrics",
        "metric_for_best_model",
        "greater_is_better",
        "early_stopping_patience",
        "logging_steps",
        "save_steps",
        "save_total_limit",
        "report_to",
        "run_name",
        "torch_compile",
        "trunk_cache_dir",
        "keep_trunk_cache",
    }
)
SHARED_KEYS = tuple(name for name in TrainingOptions.model_fields if name not in _DECIDED)
"""Keys of the optimisation that a comparison takes, the same for all trials."""

SUGGEST_KEYS = (
    *(name for name in DataOptions.model_fields if name not in ("eval_data", "validation_split")),
    *("model", "task", "dtype", "device", "quantization"),
    *("num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "max_tokens_per_batch"),
)
"""Keys of a training that `petune suggest` takes: those that time and memory depend on, whatever the method."""

_FROZEN = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class CompareOptions(DataOptions):
    """The keys of a comparison, apart from those of the optimisation."""

    models: tuple[str, ...] = Field(default=("demo",), min_length=1)
    """Base models: hub ids, local folders, .gguf files, or `demo`."""

    methods: tuple[MethodEntry, ...] = Field(default=(), validate_default=True)
    """Methods to compare: names, or maps of method, settings and search; `all` (the default) is every method."""

    baselines: bool = True
    """Add what methods are held against, where it is not listed: the untrained base, and the whole base trained."""

    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = Field(default=(42,), min_length=1)
    """Seeds of the final trials; the search uses the first."""

    test_data: str | None = None
    """Rows that the final quality is measured on, named as `data` is; no search sees them."""

    test_split: float | None = None
    """Rows of `data` set aside as the test split (default: 0.2 where there is no `test_data`): a share, or a number."""

    allow_overlap: bool = False
    """Go on where test rows are training rows too."""

    budget: float = Field(default=3.0, gt=0)
    """How much every final trial may train, in `budget_unit`."""

    budget_unit: BudgetUnit = "epochs"
    """What the budget counts: epochs, optimiser steps, tokens, or seconds of training."""

    rate_factors: tuple[float, ...] = Field(default=(0.3, 1.0, 3.0, 10.0), min_length=1)
    """Learning rates to try, as multiples of the method's own, where an entry names none; one value: no search."""

    reduction: int = Field(default=3, ge=2)
    """Successive halving keeps one candidate in so many and gives it so many times the budget, up to the last round."""

    search_settings: bool = True
    """Try, at the rate that was found, other ranks, lengths or starts too, where an entry has no search of its own."""

    metric: str | None = None
    """Metric that decides (default: the one that fits the rows, such as accuracy for labels, else loss)."""

    greater_is_better: bool | None = None
    """Whether more of the metric, one of your own, is better (default: of all but loss and perplexity)."""

    metrics: tuple[str, ...] = ()
    """Further metrics to measure on the test rows."""

    max_new_tokens: int = Field(default=64, ge=1)
    """Most tokens of an answer, where answers are generated."""

    evaluations: int = Field(default=8, ge=1)
    """How often a final trial measures its validation loss: the points of the learning curve."""

    examples: int = Field(default=4, ge=0)
    """Test rows whose answers the report shows."""

    forgetting: bool = True
    """Measure what a trial does to neutral text and to answers to everyday questions."""

    generation_speed: bool = True
    """Measure how fast a trial writes, and the bare base beside it."""

    keep_adapters: bool = True
    """Keep the adapters of final trials."""

    share_passes: bool = True
    """Train trials of a search in one pass over their base, where results stay the same; final trials train alone."""

    engine: EngineName = "local"
    """Where trials run: `local` is a process of their own on this machine, `inline` this process, `ray` a cluster."""

    cpus_per_trial: int | None = Field(default=None, ge=1)
    """Processor cores, and threads, of each trial (default: as many as torch takes on this machine)."""

    gpus_per_trial: float | None = Field(default=None, ge=0)
    """GPUs that `ray` sets aside for each trial (default: 1 where this machine trains on one, else 0)."""

    memory_per_trial: str | None = None
    """Memory that `ray` sets aside for each trial, such as 8GiB (default: none is set aside)."""

    ray_address: str | None = None
    """Ray's address (default: RAY_ADDRESS, else the cluster that runs here, else one is started on this machine)."""

    retries: int | None = Field(default=None, ge=0)
    """How often a trial is begun again whose own process died or whose node was lost, before it fails (default: 1)."""

    task: TaskName | None = None
    """What the bases are trained for (default: what their weights were saved for, else what the rows are for)."""

    dtype: str = "auto"
    """Precision of the bases: bfloat16, float16, float32, or auto (bfloat16 where the machine computes it fast)."""

    quantization: Quantization | None = None
    """Keep weights as blocks: gguf (those of the GGUF file, the same numbers), 8bit or 4bit (rounded to them)."""

    device: str = "auto"
    """Where to run: cpu, cuda, or auto."""

    output_dir: FolderName = Field(default="outputs/compare", min_length=1)
    """Folder of the trials and the report."""

    @field_validator("methods", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        """Return entries for names, and every method for none or `all`."""
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list | tuple):
            return value
        if not value or tuple(value) == (ALL,):
            value = registry.names()
        return tuple({"method": entry} if isinstance(entry, str) else entry for entry in value)

    @field_validator("models", "seeds", "metrics", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        """Let one value stand for a list of one."""
        return (value,) if isinstance(value, str | int) else value

    @field_validator("models", "seeds")
    @classmethod
    def _once(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        twice = next((item for item in value if value.count(item) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice} stands there twice; name each once")
        return value

    @field_validator("rate_factors")
    @classmethod
    def _positive(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(factor <= 0 for factor in value) or len(set(value)) < len(value):
            raise ValueError("factors must be above 0 and differ, such as 0.3,1,3")
        return value

    @field_validator("gpus_per_trial")
    @classmethod
    def _part_of_one_or_whole(cls, value: float | None) -> float | None:
        if value is not None and value > 1 and value != int(value):
            raise ValueError("Ray sets aside a part of one GPU, such as 0.5, or a whole number of them")
        return value

    @field_validator("memory_per_trial")
    @classmethod
    def _is_a_size(cls, value: str | None) -> str | None:
        if value is not None:
            read_bytes(value)
        return value

    @model_validator(mode="after")
    def _engine_can(self) -> Self:
        for name, engines in _OF_ENGINES.items():
            if getattr(self, name) is not None and self.engine not in engines:
                whose = f"engine {engines[0]}" if len(engines) == 1 else f"engines {' and '.join(engines)}"
                raise ValueError(f"{name} is for the {whose}, and the engine is {self.engine}; leave it out")
        return self

    @property
    def attempts_again(self) -> int:
        """How often a trial is begun again whose process died or whose node was lost."""
        return DEFAULT_RETRIES if self.retries is None else self.retries

    @model_validator(mode="after")
    def _has_data(self) -> Self:
        if self.data is None:
            raise ValueError("no training data: give data, a file or a hub data set id")
        if self.test_data is not None and self.test_split is not None:
            raise ValueError("test_split and test_data are both given; keep one of them")
        share = self.test_split
        if share is not None and (share <= 0 or (share >= 1 and share != int(share))):
            raise ValueError(f"test_split is {share:g}; give a share between 0 and 1 (0.2), or a whole number of rows")
        if self.budget_unit == "steps" and self.budget != int(self.budget):
            raise ValueError(f"budget is {self.budget:g} steps; give a whole number of 1 or more")
        return self


@final
class CompareRecipe(BaseModel):
    """A checked recipe of a comparison."""

    model_config = _FROZEN

    options: CompareOptions
    """The keys of the comparison."""

    training: dict[str, Any]
    """Keys of the optimisation that all trials share."""

    @classmethod
    def parse(cls, keys: Mapping[str, Any]) -> Self:
        """Return the recipe that ``keys`` describe.

        Raises:
            ConfigError: an unknown key (the nearest one is offered), a value out of range, or a setting that a method
                does not have.
        """
        known = CompareOptions.model_fields
        training = {key: value for key, value in keys.items() if key not in known}
        for key in training:
            if key in _DECIDED:
                raise ConfigError(
                    f"'{key}' is decided for each trial by the comparison: use budget, seeds, metric, rate_factors, or"
                    " the settings of a method's entry"
                )
            if key not in SHARED_KEYS:
                choices = (*known, *SHARED_KEYS)
                raise ConfigError(
                    f"unknown key '{key}' for a comparison.{nearest(key, choices)} The keys are {', '.join(choices)};"
                    " settings of a method stand in its entry under methods"
                )
        try:
            options = CompareOptions.model_validate({key: value for key, value in keys.items() if key in known})
            shared = TrainingOptions.model_validate(training)
        except ValidationError as error:
            raise ConfigError(explain(error, CompareOptions)) from error
        recipe = cls(options=options, training={key: getattr(shared, key) for key in SHARED_KEYS})
        recipe.entries()
        return recipe

    @classmethod
    def read(cls, path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None) -> Self:
        """Return the recipe in the YAML file ``path``, with ``overrides`` in place of its keys.

        Raises:
            ConfigError: the file is missing, not YAML, not a mapping, or holds a bad key.
        """
        return cls.parse({**read_yaml(Path(path)), **(overrides or {})})

    def keys(self) -> dict[str, Any]:
        """Return all keys and values, as YAML and JSON can hold them."""
        return {**self.options.model_dump(mode="json"), **self.training}

    def to_yaml(self) -> str:
        """Return the recipe as YAML that :meth:`read` takes."""
        return yaml.safe_dump(self.keys(), sort_keys=False, allow_unicode=True)

    def entries(self) -> tuple[MethodEntry, ...]:
        """Return the methods to compare, those that others are held against included; each entry once.

        Raises:
            ConfigError: an entry has a setting that its method does not have, or two have the same method and settings.
        """
        entries = list(self.options.methods)
        listed = {entry.method for entry in entries}
        if self.options.baselines:
            entries += [MethodEntry(method=n) for n in registry.names() if registry.get(n).baseline and n not in listed]
        given = [entry.label for entry in entries]
        for entry in entries:
            entry.candidates(self.options.rate_factors)
            if given.count(entry.label) > 1:
                raise ConfigError(
                    f"the entry {entry.label} stands under methods twice; give it once, with all that is to be chosen"
                    " from in its search, or give each its own settings"
                )
        return tuple(entries)
