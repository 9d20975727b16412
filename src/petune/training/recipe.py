"""A recipe: everything one training run needs, as one flat set of keys.

The keys of the run (model, data, optimisation) and those of the chosen method stand side by side, in YAML, on the
command line and in Python alike.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, final

import yaml
from pydantic import Field, ValidationError, field_serializer, model_validator

from petune import methods
from petune.backbone.quantization_names import Quantization
from petune.backbone.task_names import TaskName
from petune.data.options import DataOptions
from petune.errors import ConfigError, nearest
from petune.methods.config import MethodConfig, explain, fields_of
from petune.training.options import TrainingOptions
from petune.training.paths import FolderName
from petune.training.task_entries import RunTask, TaskEntry, read_entries, settled

FILE_NAME = "recipe.yaml"
"""Under this name every run keeps its recipe."""

SEVERAL = "adapters"
"""The key under which a recipe has several adapters."""

# Keys that may change when a run goes on: where it runs and what it reports, not what it computes.
FREE_ON_RESUME = frozenset(
    {
        "output_dir",
        "report_to",
        "run_name",
        "device",
        "save_total_limit",
        "save_steps",
        "max_tokens_per_batch",
        "memory_budget",
        "trunk_cache",
        "keep_trunk_cache",
        "trunk_cache_dir",
    }
)


_OF_VALIDATION = ("eval_steps", "metrics", "metric_for_best_model", "early_stopping_patience")


class RunOptions(DataOptions, TrainingOptions):
    """The keys of a recipe that do not depend on the method."""

    model: str = "demo"
    """Base model: a hub id, a local folder, a .gguf file, or `demo` (SmolLM2-135M-Instruct, fetched once)."""

    task: TaskName | None = None
    """What the base is trained for (default: what its weights were saved for, else what its rows are for)."""

    revision: str | None = None
    """Branch, tag or commit of a hub id."""

    dtype: str = "auto"
    """Precision of the base: bfloat16, float16, float32, or auto (bfloat16 where the machine computes it fast)."""

    quantization: Quantization | None = None
    """Keep weights as blocks: gguf (those of the GGUF file, the same numbers), 8bit or 4bit (rounded to them)."""

    device: str = "auto"
    """Where to run: cpu, cuda, or auto."""

    method: str = "lora"
    """How to tune: a name that `petune methods` lists."""

    output_dir: FolderName = Field(default="outputs/petune", min_length=1)
    """Folder for the adapter, the checkpoints and the records of the run."""

    tasks: tuple[TaskEntry, ...] = ()
    """Several tasks for one adapter, in place of `data`: a list of entries with `name` and `data`, and perhaps `task`,
    `eval_data`, `weight`, `metrics` and any key of reading; what an entry leaves out is as the run has it."""

    def run_tasks(self) -> tuple[RunTask, ...]:
        """Return the tasks of the run; one without a name where none are named."""
        if not self.tasks:
            return (RunTask("", self, self.task, self.metrics),)
        return tuple(settled(entry, self, self.task, self.metrics) for entry in self.tasks)

    def measured(self) -> tuple[str, ...]:
        """Return the names of what an evaluation can measure; what is of one of several tasks has its name in front."""
        if not self.tasks:
            return super().measured()
        own = [(task.name, metric) for task in self.run_tasks() for metric in ("loss", "perplexity", *task.metrics)]
        return ("loss", *(f"{task}/{metric}" for task, metric in own))

    @field_serializer("tasks")
    def _as_given(self, tasks: tuple[TaskEntry, ...]) -> list[dict[str, Any]]:
        return [entry.keys() for entry in tasks]

    @model_validator(mode="before")
    @classmethod
    def _read_tasks(cls, keys: Any) -> Any:
        if isinstance(keys, dict) and keys.get("tasks"):
            return {**keys, "tasks": read_entries(keys["tasks"])}
        return keys

    @model_validator(mode="after")
    def _data_is_said_once(self) -> Self:
        idle = [name for name in ("data", "eval_data") if self.tasks and getattr(self, name) is not None]
        if idle:
            raise ValueError(f"beside tasks {' and '.join(idle)} would do nothing; write it in the entries of tasks")
        return self

    @model_validator(mode="after")
    def _validation_has_rows(self) -> Self:
        if any(task.has_validation for task in self.run_tasks()):
            return self
        fields = type(self).model_fields
        idle = [name for name in _OF_VALIDATION if getattr(self, name) != fields[name].default]
        if idle:
            raise ValueError(
                f"without validation rows {', '.join(idle)} would do nothing; give eval_data, or validation_split (such"
                " as 0.1 for a tenth of the rows)"
            )
        return self


@final
@dataclass(frozen=True, slots=True)
class Recipe:
    """A checked recipe: the run's options and the method's settings."""

    run: RunOptions
    method: MethodConfig

    @classmethod
    def parse(cls, keys: Mapping[str, Any]) -> Self:
        """Return the recipe that ``keys`` describe.

        Raises:
            ConfigError: an unknown key (the nearest one is offered), or a value out of range.
        """
        if SEVERAL in keys:
            raise ConfigError(
                f"the recipe has several {SEVERAL}, which train together: use petune.train_many, or petune train on the"
                " command line"
            )
        known = RunOptions.model_fields
        run = _validate({key: value for key, value in keys.items() if key in known})
        method = methods.get(run.method)
        options = {key: value for key, value in keys.items() if key not in known}
        accepted = set(method.config_class.model_fields) | _aliases(method.config_class)
        for key in options:
            if key not in accepted:
                raise ConfigError(
                    f"unknown key '{key}' for method {run.method}.{nearest(key, [*known, *sorted(accepted)])}"
                    f" Its own keys are {', '.join(fields_of(method.config_class))};"
                    " the others are listed by petune train --help"
                )
        return cls(run, method.configure(options))

    @classmethod
    def read(cls, path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None) -> Self:
        """Return the recipe in the YAML file ``path``, with ``overrides`` in place of its keys.

        Raises:
            ConfigError: the file is missing, not YAML, not a mapping, or holds a bad key.
        """
        return cls.parse({**read_yaml(Path(path)), **(overrides or {})})

    @classmethod
    def of(cls, recipe: "Recipe | Mapping[str, Any] | str | os.PathLike[str]") -> "Recipe":
        """Return the recipe that is given: itself, its keys, or the path of its YAML file.

        Raises:
            ConfigError: as :meth:`parse` and :meth:`read` do.
        """
        if isinstance(recipe, Recipe):
            return recipe
        return cls.parse(recipe) if isinstance(recipe, Mapping) else cls.read(recipe)

    def keys(self) -> dict[str, Any]:
        """Return all keys and values, as YAML and JSON can hold them."""
        return {**self.run.model_dump(mode="json"), **self.method.model_dump(mode="json")}

    def to_yaml(self) -> str:
        """Return the recipe as YAML that :meth:`read` takes."""
        return yaml.safe_dump(self.keys(), sort_keys=False, allow_unicode=True)

    def differences(self, other: "Recipe") -> list[str]:
        """Return, in words, the keys in which ``other`` would compute something else."""
        ours, theirs = self.keys(), other.keys()
        return [
            f"{key} is {theirs.get(key)!r}, was {ours.get(key)!r}"
            for key in sorted(ours.keys() | theirs.keys())
            if key not in FREE_ON_RESUME and ours.get(key) != theirs.get(key)
        ]


class _UniqueKeys(yaml.SafeLoader):
    """Reads YAML in which no mapping has a key twice: the first value would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    "in a mapping", node.start_mark, f"the key {key.value!r} stands there twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        ConfigError: the file is missing, not YAML, or not a mapping of names.
    """
    try:
        content = _UniqueKeys(path.read_text(encoding="utf-8")).get_single_data()
    except OSError as error:
        here = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise ConfigError(
            f"cannot read the recipe {path}: {error.strerror}.{nearest(path.name, here)} Give a YAML file, or settings"
            " alone, as flags and KEY=VALUE"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        where = " ".join(str(error).split())
        raise ConfigError(f"the recipe {path} is not YAML: {where}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"the recipe {path} must be a mapping of keys to values, such as 'model: demo'")
    return content


def saved_recipe(folder: Path, what: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that the recipe in ``folder`` has; none where there is none and ``given`` names data.

    Args:
        folder: that of what is to go on.
        what: a run, or a comparison.
        given: the keys that were given besides.

    Raises:
        ConfigError: there is nothing that could go on.
    """
    path = folder / FILE_NAME
    if path.exists():
        return read_yaml(path)
    if "data" in given:
        return {}
    raise ConfigError(
        f"{folder} holds no {what} to go on with ({FILE_NAME} is missing there); give the folder of one with"
        " --output-dir, or leave --resume out"
    )


def _validate(keys: Mapping[str, Any]) -> RunOptions:
    try:
        return RunOptions.model_validate(dict(keys))
    except ValidationError as error:
        raise ConfigError(explain(error, RunOptions)) from error


def _aliases(config: type[MethodConfig]) -> set[str]:
    found: set[str] = set()
    for field in config.model_fields.values():
        alias = field.validation_alias
        if alias is not None and not isinstance(alias, str):
            found |= {str(choice) for choice in getattr(alias, "choices", ())}
    return found
