"""Everything wrong with the data, gathered in one run and told in one error."""

from typing import final

from petune.errors import DataError

_SHOWN = 20


class RowProblem(Exception):  # noqa: N818 - a finding about one row, gathered and never shown by itself
    """One row cannot be used.

    Args:
        reason: what was found and what was expected.
        fix: what to do about it.
    """

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.fix = fix


@final
class Problems:
    """Problems of rows, in the order of files and of lines within each."""

    def __init__(self) -> None:
        self._files: dict[str, int] = {}
        self._found: list[tuple[int, int, str]] = []

    def __len__(self) -> int:
        return len(self._found)

    def add(self, file: str, number: int, origin: str, problem: RowProblem) -> None:
        """Remember a problem.

        Args:
            file: the source it is in.
            number: line or row in that source, 1-based; problems are told in this order.
            origin: the place as the user reads it, such as ``reviews.jsonl:12``.
            problem: reason and fix.
        """
        rank = self._files.setdefault(file, len(self._files))
        self._found.append((rank, number, f"{origin}: {problem.reason}; {problem.fix}"))

    def add_error(self, file: str, error: DataError) -> None:
        """Remember what is wrong with a file as a whole; told before its lines."""
        rank = self._files.setdefault(file, len(self._files))
        self._found.append((rank, 0, str(error)))

    def raise_if_any(self) -> None:
        """Raise what was gathered.

        Raises:
            DataError: the first 20 problems, one a line, and how many there are in all.
        """
        if not self._found:
            return
        lines = [line for _, _, line in sorted(self._found, key=lambda found: found[:2])]
        hidden = len(lines) - _SHOWN
        if hidden > 0:
            lines = [*lines[:_SHOWN], f"... and {hidden:,} more ({len(lines):,} problems in all)"]
        raise DataError("\n".join(lines))
