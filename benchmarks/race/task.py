"""What a worker was asked to do, and how it answers."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from race.settings import Settings
from race.work import Work


@dataclass(frozen=True, slots=True)
class Task:
    """The request of :func:`race.processes.run_worker`, on the worker's side."""

    work: Work
    report: Path
    arguments: dict[str, Any]

    @classmethod
    def from_command_line(cls) -> "Task":
        """Return the task in this process's one argument."""
        content = json.loads(sys.argv[1])
        return cls(Work(Path(content.pop("work"))), Path(content.pop("report")), content)

    @property
    def settings(self) -> Settings:
        """The sizes of the work, at the rate that was asked for."""
        settings = self.work.settings
        return replace(settings, learning_rate=settings.learning_rate * self.arguments.get("share_of_rate", 1))

    def answer(self, content: dict[str, Any]) -> None:
        """Hand ``content`` back."""
        self.report.write_text(json.dumps(content), encoding="utf-8")
