"""One trial to run, as plain values: what it trains, for how long, and what is measured of it."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, final

from pydantic import BaseModel, ConfigDict

from petune.comparison.command import train_command
from petune.comparison.record import Budget, Stage, Status, Trial
from petune.evaluation.metrics import higher_is_better, measured_name

_DIGEST = 12
_ELSEWHERE = ("data", "eval_data", "output_dir")
"""Keys that say where files lie, which changes nothing in what a trial finds."""
_CAME_LATER = {"greater_is_better": None, "generation_speed": True}
"""What earlier versions did not ask, and what they did: trials of theirs keep their names."""


@final
class Measures(BaseModel):
    """What is measured of a trial."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    metric: str
    """Name or place of the metric that decides."""

    greater_is_better: bool | None = None
    """Whether more of it is better, where it is the user's own."""

    metrics: tuple[str, ...] = ()
    """Further metrics."""

    max_new_tokens: int
    """Most tokens of a generated answer."""

    test: str | None = None
    """The test rows' file; None for a trial of the search, which never sees them."""

    examples: int = 0
    """Test rows whose answers are kept."""

    forgetting: bool = False
    """Whether neutral text and everyday questions are measured."""

    generation_speed: bool = True
    """Whether it is measured how fast it writes, where there are test rows."""

    @property
    def name(self) -> str:
        """The name under which the metric is measured: a user's own goes by its function's, or by its file's."""
        return measured_name(self.metric)


@final
class Job(BaseModel):
    """One trial to run. The same values are the same trial, today and in a later call."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    entry: str
    """The line of the table that it belongs to: a method with the settings that were given."""

    stage: Stage
    """What the trial is for."""

    rung: int | None
    """Round of the search."""

    budget: Budget
    """How much it may train."""

    settings: dict[str, Any]
    """What sets it apart: settings of its method, and the learning rate."""

    keys: dict[str, Any]
    """The keys of its `petune train`, without an output folder; without `max_steps` where the budget is seconds."""

    measures: Measures
    """What is measured."""

    rows: tuple[str, ...]
    """Digests of the parts that it uses."""

    @property
    def base(self) -> str:
        """The base model."""
        return str(self.keys["model"])

    @property
    def method(self) -> str:
        """Name of the method."""
        return str(self.keys["method"])

    @property
    def seed(self) -> int:
        """Seed of the trial."""
        return int(self.keys["seed"])

    @property
    def id(self) -> str:
        """Name of its folder, made from all that identifies it."""
        keys = {key: value for key, value in self.keys.items() if key not in _ELSEWHERE}
        measures = self.measures.model_copy(update={"test": None}).model_dump(mode="json")
        for name, usual in _CAME_LATER.items():
            if measures[name] is usual:
                del measures[name]
        identity = [self.entry, keys, measures, self.stage, self.rung, self.budget.model_dump(mode="json"), self.rows]
        text = json.dumps(identity, sort_keys=True, ensure_ascii=False, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGEST]
        base = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(self.base).name)[:40].strip("-._") or "base"
        stage = self.stage if self.rung is None else f"{self.stage}{self.rung}"
        return f"{base}-{self.method}-{stage}-seed{self.seed}-{digest}"

    def command(self, **decided: Any) -> str:
        """Return the `petune train` line that repeats it; ``decided``: keys that were settled when it started."""
        return train_command({**self.keys, **decided, "output_dir": f"outputs/{self.id}"})

    def record(self, status: Status, *, reason: str | None = None, **found: Any) -> Trial:
        """Return the record of the trial."""
        return Trial(
            id=self.id,
            base=self.base,
            method=self.method,
            entry=self.entry,
            settings=self.settings,
            seed=self.seed,
            stage=self.stage,
            rung=self.rung,
            budget=self.budget,
            status=status,
            reason=reason,
            metric=self.measures.name,
            higher_is_better=higher_is_better(self.measures.name, self.measures.greater_is_better),
            **{"command": self.command(), **found},
        )
