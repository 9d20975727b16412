"""Ctrl-C and SIGTERM as a wish to stop, noticed between optimiser steps."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self, final

from petune.errors import Interrupted
from petune.training.checkpoints import steps_in


@final
class StopSignals:
    """Inside the block, the first SIGINT or SIGTERM is noted in ``received`` instead of ending the process.

    A second SIGINT raises KeyboardInterrupt at once, for somebody who does not want to wait for the save. Outside the
    main thread Python delivers no signals, and nothing is changed there.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._former: dict[int, signal.Handlers | int | None] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.getsignal(number)  # type: ignore[assignment]
                signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Raise at a SIGTERM inside the block, so that what is open is closed; only in the main thread.

    Raises:
        Interrupted: the signal came.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted("stopped by a signal", number)

    former = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


@contextmanager
def telling_how_to_go_on(outputs: Sequence[Path], how: str) -> Iterator[None]:
    """Say of a Ctrl-C that nobody waited for which checkpoints of the runs in ``outputs`` are left.

    Args:
        outputs: folders of the runs.
        how: what to do to go on.

    Raises:
        Interrupted: in place of KeyboardInterrupt, where there is a checkpoint.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        last = [f"{output / f'checkpoint-{steps[-1]}'}" for output in outputs if (steps := steps_in(output))]
        if not last:
            raise
        what = "the last checkpoint is" if len(last) == 1 else "the last checkpoints are"
        raise Interrupted(f"interrupted; {what} {', '.join(last)}. {how}", signal.SIGINT) from error
