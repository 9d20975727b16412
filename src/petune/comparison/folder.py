"""The folder of a comparison: what lies in it, who may write to it, and what is in it already."""

import json
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import final

from pydantic import ValidationError

from petune.checkpoint.durable import LOCK, explained, held, write_text
from petune.comparison.record import Comparison, Trial
from petune.errors import ArtifactError, ConfigError, OutputFolderError

COMPARISON = "comparison.json"
RECIPE = "recipe.yaml"
_TRIAL = "trial.json"
_REPORTS = ("report.html", "report.md", "report.csv", "report.json")


@final
class Folder:
    """The folder of a comparison.

    Args:
        path: where it is; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = path / "data"
        self.trials = path / "trials"
        self.trunk = path / "trunk"
        """Where trials keep what the blocks below their adapters make of rows, until the comparison is finished."""

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Check that a comparison may be written here; nothing changes.

        Raises:
            ConfigError: both flags are given.
            OutputFolderError: it holds a comparison and neither flag is given, or something else.
        """
        if resume and overwrite:
            raise ConfigError("--resume goes on with the comparison, --overwrite begins it anew; give one of them")
        if self.path.exists() and not self.path.is_dir():
            raise OutputFolderError(f"{self.path} is a file; give a folder with --output-dir")
        names = {path.name for path in self.path.iterdir()} - {LOCK} if self.path.is_dir() else set()
        if COMPARISON in names and not resume and not overwrite:
            raise OutputFolderError(
                f"{self.path} holds a comparison already: go on with --resume (which runs only what is missing),"
                " replace it with --overwrite, or give another --output-dir"
            )
        if names and COMPARISON not in names:
            raise OutputFolderError(
                f"{self.path} holds something else ({', '.join(sorted(names)[:3])}); give another --output-dir"
            )

    def held(self) -> AbstractContextManager[None]:
        """Keep every other comparison out of the folder for the block, whatever becomes of this process.

        Raises:
            OutputFolderError: another comparison runs here, or the folder cannot be written.
        """
        return held(self.path, "comparison")

    def clear(self) -> None:
        """Remove the comparison that the folder holds, and nothing else."""
        with explained(self.path):
            for folder in (self.trials, self.data, self.trunk):
                if folder.is_dir():
                    shutil.rmtree(folder)
            for name in (COMPARISON, RECIPE, *_REPORTS):
                (self.path / name).unlink(missing_ok=True)

    def finish(self) -> None:
        """Remove what only trials that are still to run could use."""
        shutil.rmtree(self.trunk, ignore_errors=True)

    def of(self, trial: str) -> Path:
        """Return the folder of a trial."""
        return self.trials / trial

    def trial(self, name: str) -> Trial | None:
        """Return a trial that has ended; None where it has not.

        Raises:
            ArtifactError: its record is damaged.
        """
        path = self.of(name) / _TRIAL
        if not path.is_file():
            return None
        try:
            return Trial.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ArtifactError(
                f"{path} is damaged ({error.error_count()} problems); remove it and --resume"
            ) from error

    @property
    def has_trials(self) -> bool:
        """Whether a trial has ended here."""
        return any(self.trials.glob(f"*/{_TRIAL}"))

    def save(self, trial: Trial) -> None:
        """Write the record of a trial that has ended."""
        write_text(self.of(trial.id) / _TRIAL, trial.model_dump_json(indent=1) + "\n")

    def comparison(self) -> Comparison | None:
        """Return what the folder says of its comparison, without trials; None where it holds none.

        Raises:
            ArtifactError: the file is damaged.
        """
        path = self.path / COMPARISON
        if not path.is_file():
            return None
        try:
            return Comparison.model_validate(json.loads(path.read_bytes()))
        except ValueError as error:
            raise ArtifactError(f"{path} is damaged ({type(error).__name__}); begin anew with --overwrite") from error

    def begin(self, comparison: Comparison, recipe: str) -> None:
        """Write what is known before the first trial: recipe, machine, data."""
        # First the file by which the folder is known, so that a call that ends here can be gone on with.
        write_text(
            self.path / COMPARISON, comparison.model_copy(update={"trials": []}).model_dump_json(indent=1) + "\n"
        )
        write_text(self.path / RECIPE, recipe)
