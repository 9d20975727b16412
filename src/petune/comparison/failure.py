"""An error that ends a comparison, on its way from one process to another as plain values."""

import signal
from typing import Self, final

from pydantic import BaseModel, ConfigDict

from petune import errors
from petune.errors import Interrupted, PetuneError


@final
class Failure(BaseModel):
    """An error of petune."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: str
    """Name of its class."""

    message: str
    """What it says."""

    exit_code: int
    """What the command line returns."""

    @classmethod
    def of(cls, error: PetuneError) -> Self:
        """Return an error as plain values."""
        return cls(kind=type(error).__name__, message=str(error), exit_code=error.exit_code)

    @property
    def stopped_by(self) -> str | None:
        """Name of the signal that stopped the process; None where it was an error."""
        return signal.Signals(self.exit_code - 128).name if self.kind == Interrupted.__name__ else None

    def error(self) -> PetuneError:
        """Return the error."""
        if self.kind == Interrupted.__name__:
            return Interrupted(self.message, self.exit_code - 128)
        kind: type[PetuneError] = getattr(errors, self.kind)
        return kind(self.message)
