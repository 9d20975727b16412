"""What a process that runs trials says to the one that follows them: a line of JSON each."""

from typing import final

from pydantic import BaseModel, ConfigDict

from petune.comparison.failure import Failure
from petune.comparison.record import Trial


@final
class Message(BaseModel):
    """One piece of news; the fields that have none are left out."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    began: str | None = None
    """Id of a trial that begins."""

    stepped: tuple[str, int, int] | None = None
    """Id of a trial that has done a step, the step, and how many there will be."""

    ended: Trial | None = None
    """A trial that has ended."""

    failure: Failure | None = None
    """What ends all of it."""

    idle: bool = False
    """The unit is done."""

    def line(self) -> str:
        """Return it as a line."""
        return self.model_dump_json(exclude_defaults=True) + "\n"
