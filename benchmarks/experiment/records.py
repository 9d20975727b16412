"""What is kept of a part in git: its comparison, without what can be had from another run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final

import numpy as np
from pydantic import BaseModel, ConfigDict

from experiment.resampling import Scores
from petune.comparison.record import Comparison, Trial

RESULTS = Path(__file__).parents[1] / "results" / "experiment"

_DIGITS = 5
_EXAMPLES = 2


@final
class Facts(BaseModel):
    """What is known of the texts beside the trials."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    new_tokens: int
    """Tokens that were added to the vocabulary."""

    first_tokens: list[str]
    """Those that save most."""

    tokens_per_character: float
    """Of the Chinese test dialogues, with the base's own vocabulary."""

    tokens_per_character_extended: float
    """The same with the new tokens."""

    label_tokens: list[int] = []
    """Tokens to predict in each Chinese test dialogue."""

    label_tokens_extended: list[int] = []
    """The same with the new tokens."""

    characters: list[int] = []
    """Characters of each answer there."""


@final
class Records:
    """The parts of one edition that have been run.

    Args:
        parts: comparisons by part.
        facts: what is known of the texts.
    """

    def __init__(self, parts: Mapping[str, Comparison], facts: Facts | None = None) -> None:
        self.parts = parts
        self.facts = facts

    @classmethod
    def read(cls, folder: Path) -> "Records":
        """Return what lies in the folder of an edition; nothing where there is none."""
        found = {path.stem: path for path in sorted(folder.glob("*.json"))}
        facts = found.pop("facts", None)
        return cls(
            {part: Comparison.model_validate_json(path.read_bytes()) for part, path in found.items()},
            None if facts is None else Facts.model_validate_json(facts.read_bytes()),
        )

    def trials(self, part: str, method: str, **settings: object) -> list[Trial]:
        """Return the final trials, by seed, of a method with these settings; extended vocabularies only where asked.

        Args:
            part: the part.
            method: name of the method.
            settings: values that its settings must have.
        """
        if part not in self.parts:
            return []
        wanted = {"new_tokens": None, **settings}
        found = [
            trial
            for trial in self.parts[part].trials
            if trial.method == method
            and trial.stage != "search"
            and trial.status == "done"
            and bool(trial.settings.get("new_tokens")) == bool(wanted["new_tokens"])
            and all(trial.settings.get(key) == value for key, value in settings.items() if key != "new_tokens")
        ]
        return sorted(found, key=lambda trial: trial.seed)

    def floor(self, part: str) -> list[Trial]:
        """Return the trial of the untrained base, as the part's own prompt asks it."""
        found = [] if part not in self.parts else self.parts[part].trials
        return [trial for trial in found if trial.stage == "floor" and trial.status == "done" and not trial.settings]


def goodness(trials: Sequence[Trial]) -> Scores | None:
    """Return scores [seeds, rows], more being better; None where there are none, or some are not finite."""
    rows = [trial.scores for trial in trials if trial.scores]
    if not rows or len({len(row) for row in rows}) != 1:
        return None
    scores = np.array(rows, dtype=np.float64) * (1 if trials[0].higher_is_better else -1)
    return scores if np.isfinite(scores).all() else None


def paired(*several: Sequence[Trial]) -> list[Scores] | None:
    """Return the scores of several methods over the seeds that all have; what did not train stands for each seed.

    A seed whose trial of one method has no scores is left out of all, for its rows have nothing to be held against.
    None where one of them has not been run, or they have no seed in common.
    """
    scored = [[trial for trial in trials if trial.scores] for trials in several]
    trained = [{trial.seed for trial in trials} for trials in scored if trials and trials[0].stage != "floor"]
    common = set.intersection(*trained) if trained else set()
    tables = [goodness([t for t in trials if t.stage == "floor" or t.seed in common]) for trials in scored]
    found = [table for table in tables if table is not None]
    return found if len(found) == len(tables) and len({table.shape[1] for table in found}) == 1 else None


def condensed(comparison: Comparison) -> Comparison:
    """Return a comparison as it is kept: evaluations of the curves, short numbers, no words of the search's trials."""
    machine = {key: value for key, value in comparison.machine.items() if key != "system"}
    first = min((trial.seed for trial in comparison.trials), default=0)
    trials = [_condensed(trial, first) for trial in comparison.trials]
    return comparison.model_copy(update={"machine": machine, "trials": trials})


def _condensed(trial: Trial, first: int) -> Trial:
    curve = [point for point in trial.curve if point.eval_loss is not None] if trial.stage != "search" else []
    return trial.model_copy(
        update={
            "curve": curve,
            "scores": [round(score, _DIGITS) for score in trial.scores],
            "examples": trial.examples[:_EXAMPLES] if trial.seed == first else [],
            "adapter": None,
        }
    )


def write(comparison: Comparison, path: Path) -> None:
    """Write a condensed comparison."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(condensed(comparison).model_dump_json(exclude_defaults=True) + "\n", encoding="utf-8")
