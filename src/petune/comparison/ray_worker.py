"""What runs on a node of a Ray cluster: an actor that runs trials."""

import os
import signal
from pathlib import Path
from typing import final

import ray
from pydantic import BaseModel, ConfigDict

from petune import __version__
from petune.comparison.assignment import Assignment
from petune.comparison.failure import Failure
from petune.comparison.folder import Folder
from petune.comparison.message import Message
from petune.comparison.unit_runner import UnitRunner
from petune.comparison.watching import Unwatched
from petune.errors import Interrupted, PetuneError, ResourceError
from petune.training.signals import interrupted_by_sigterm


@final
class Premises(BaseModel):
    """What a node must have, as the machine has it that the comparison was started on."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    cwd: str
    """Folder that paths are relative to."""

    folder: str
    """The comparison's."""

    token: str
    """A file inside it, made for this call."""

    bases: tuple[str, ...]
    """Local folders and files of bases."""

    version: str = __version__
    """Version of petune."""

    def missing(self) -> str | None:
        """Return what this node lacks; None where it has everything."""
        if self.version != __version__:
            return f"has petune {__version__}, and the comparison was started with {self.version}; install the same"
        for path in (self.cwd, self.token, *self.bases):
            if not Path(self.cwd, path).exists():
                return (
                    f"cannot see {path}; the output folder and local bases must lie on a disk that all nodes share,"
                    " under the same path"
                )
        return None


@final
class RayWorker:
    """Runs trials in a process of a cluster.

    Args:
        premises: what the node must have.
    """

    def __init__(self, premises: Premises) -> None:
        self._missing = premises.missing()
        if self._missing is None:
            os.chdir(premises.cwd)
        self._runner = UnitRunner(Folder(Path(premises.folder)), Unwatched())

    def whereabouts(self) -> tuple[int, str]:
        """Return the number of this process, and the id of its node."""
        return os.getpid(), ray.get_runtime_context().get_node_id()

    def run(self, assignment: str) -> list[str]:
        """Return, as lines, what is to be said of an assignment, which comes as JSON, once it is done or stopped."""
        said: list[Message] = []
        try:
            if self._missing is not None:
                raise ResourceError(f"a node of the Ray cluster, {os.uname().nodename}, {self._missing}")
            with interrupted_by_sigterm():
                trials = self._runner.run(Assignment.model_validate_json(assignment))
                said.extend(Message(ended=trial) for trial in trials)
        except PetuneError as error:
            said.append(Message(failure=Failure.of(error)))
        except KeyboardInterrupt:
            said.append(Message(failure=Failure.of(Interrupted("stopped by a signal", signal.SIGINT))))
        return [message.line() for message in said]
