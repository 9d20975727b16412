"""What a worker was asked to do, and how it answers."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

    def answer(self, content: dict[str, Any]) -> None:
        """Hand ``content`` back."""
        self.report.write_text(json.dumps(content), encoding="utf-8")
