"""Telling on stderr what is measured before anything runs, so that nobody waits without knowing why."""

import math
import sys
import time
from pathlib import Path
from typing import final

from rich.console import Console
from rich.status import Status
from rich.text import Text

_SECONDS_BETWEEN_LINES = 10.0


@final
class Measuring:
    """On a terminal one line, which is gone afterwards; elsewhere a line at the beginning and others as time passes.

    Args:
        console: where it is told.
        plain: lines on a terminal too.
    """

    def __init__(self, console: Console | None = None, *, plain: bool = False) -> None:
        self._console = console or Console(file=sys.stderr)
        self._plain = plain or not self._console.is_terminal
        self._told = -math.inf
        self._status: Status | None = None

    def tell(self, method: str, base: str, number: int, total: int) -> None:
        """Tell that ``method`` is measured on a stand-in of ``base``, the ``number``-th of ``total``."""
        where = Path(base).name
        text = Text(f"measuring what a token costs here, for the estimates: {method} on {where}, {number} of {total}")
        if self._plain:
            if number == 1 or time.monotonic() - self._told >= _SECONDS_BETWEEN_LINES:
                self._told = time.monotonic()
                self._console.print(text, soft_wrap=True)
        elif self._status is None:
            self._status = self._console.status(text)
            self._status.start()
        else:
            self._status.update(text)

    def close(self) -> None:
        """Take the line back."""
        if self._status is not None:
            self._status.stop()
            self._status = None
