"""Rows against the longest length allowed, for tasks whose labels are not the text's own tokens."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from petune.data.encoding import Encoded, EncodedSet
from petune.data.examples import ExampleSet
from petune.data.report import DataReport, length_quantiles
from petune.errors import DataError

Cut = Callable[[Encoded, int], Encoded]
"""Takes a row and the longest length; returns the row's front."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """The rows that are left, and what became of the others."""

    rows: list[Encoded]
    cut: int
    dropped: Counter[str] = field(default_factory=Counter)


def fit(
    rows: Sequence[Encoded], *, max_length: int, overlong: Literal["error", "drop", "truncate"], cut: Cut, source: str
) -> Fitted:
    """Apply ``overlong`` to the rows of more than ``max_length`` tokens.

    Raises:
        DataError: there are some, and ``overlong`` is error; or no row is left.
    """
    long = [row for row in rows if len(row.input_ids) > max_length]
    if long and overlong == "error":
        longest = max(long, key=lambda row: len(row.input_ids))
        raise DataError(
            f"{len(long):,} of {len(rows):,} rows are longer than {max_length:,} tokens (the longest has"
            f" {len(longest.input_ids):,}, at {longest.origin}); choose --overlong drop to leave them out, --overlong"
            f" truncate to keep the front of each, or --max-length, where the model has more positions"
        )
    if overlong == "drop":
        kept = [row for row in rows if len(row.input_ids) <= max_length]
        if not kept:
            raise DataError(f"{source}: every row is longer than {max_length:,} tokens; choose another --overlong")
        reason = f"longer than the maximum length of {max_length:,} tokens"
        return Fitted(kept, 0, Counter({reason: len(long)} if long else {}))
    fitted = [cut(row, max_length) if len(row.input_ids) > max_length else row for row in rows]
    return Fitted(fitted, len(long))


def encoded_set(
    examples: ExampleSet, fitted: Fitted, *, max_length: int, label_tokens: int, shown: str, notes: Sequence[str] = ()
) -> EncodedSet:
    """Return the rows with the report on them.

    Args:
        examples: what was encoded.
        fitted: what is left of it.
        max_length: longest row allowed.
        label_tokens: labels of all rows.
        shown: the first row as the model sees it, with its target between ⟦ and ⟧.
        notes: things worth a look.
    """
    lengths = [len(row.input_ids) for row in fitted.rows]
    report = DataReport(
        source=examples.source,
        layout=examples.layout,
        rows_read=len(examples),
        rows_kept=len(fitted.rows),
        rows_cut=fitted.cut,
        dropped=dict(fitted.dropped),
        max_length=max_length,
        lengths=length_quantiles(lengths),
        total_tokens=sum(lengths),
        label_tokens=label_tokens,
        example=shown,
        example_origin=fitted.rows[0].origin,
        notes=tuple(notes),
    )
    return EncodedSet(fitted.rows, report)
