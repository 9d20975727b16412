"""The data report: what was read, what is left of it, and which part of it is learned."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

_QUANTILES = {"min": 0.0, "50%": 0.5, "90%": 0.9, "99%": 0.99, "max": 1.0}
_SHOWN = 1600


@dataclass(frozen=True, slots=True)
class DataReport:
    """What became of one source of rows; lengths and totals are in tokens, of the rows kept."""

    source: str
    """File or hub id, as given."""
    layout: str
    """Name of the layout."""
    rows_read: int
    """Rows of the source, after sampling with ``#N`` and after validation rows were set aside."""
    rows_kept: int
    """Rows that will be learned."""
    rows_cut: int
    """Kept rows of which only the first ``max_length`` tokens are left."""
    dropped: Mapping[str, int]
    """Rows left out, by reason."""
    max_length: int
    """Longest row allowed, in tokens."""
    lengths: Mapping[str, int]
    """Quantiles of the rows' lengths, in tokens."""
    total_tokens: int
    """Tokens of all rows kept."""
    label_tokens: int
    """Tokens that carry a label."""
    example: str
    """One row as the model sees it, decoded, learned spans between ⟦ and ⟧."""
    example_origin: str
    """Where that row comes from."""
    notes: Sequence[str] = field(default=())
    """Things worth a look that are no errors."""
    task: str = ""
    """Name of the task that the rows are of, in a run for several."""

    @property
    def label_share(self) -> float:
        """Share of the tokens that carry a label, from 0 to 1."""
        return self.label_tokens / self.total_tokens if self.total_tokens else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        values = asdict(self)
        values.update(dropped=dict(self.dropped), lengths=dict(self.lengths), notes=list(self.notes))
        if not self.task:
            del values["task"]
        return {**values, "label_share": self.label_share}

    def render(self) -> str:
        """Return the report as lines of plain text."""
        rows_dropped = sum(self.dropped.values())
        quantiles = ", ".join(f"{name} {value:,}" for name, value in self.lengths.items())
        lines = [
            *([f"task:    {self.task}"] if self.task else []),
            f"data:    {self.source} (layout: {self.layout})",
            f"rows:    {self.rows_read:,} read, {self.rows_kept:,} kept, {self.rows_cut:,} cut to "
            f"{self.max_length:,} tokens, {rows_dropped:,} dropped",
            *(f"         dropped {count:,}: {reason}" for reason, count in self.dropped.items()),
            f"lengths: {quantiles} (tokens; limit {self.max_length:,})",
            f"tokens:  {self.total_tokens:,}, of which {self.label_tokens:,} learned ({self.label_share:.1%})",
            *(f"note:    {note}" for note in self.notes),
            f"example: {self.example_origin}, learned part between ⟦ and ⟧",
            *(f"  | {line}" for line in _shortened(self.example).splitlines()),
        ]
        return "\n".join(lines)


def joined(reports: Sequence[DataReport]) -> DataReport:
    """Return one report on the rows of several sources: sums, the least and the greatest length, the first example."""
    if len(reports) == 1:
        return reports[0]
    dropped: Counter[str] = Counter()
    for report in reports:
        dropped.update(report.dropped)
    return DataReport(
        source=", ".join(dict.fromkeys(report.source for report in reports)),
        layout=", ".join(dict.fromkeys(report.layout for report in reports)),
        rows_read=sum(report.rows_read for report in reports),
        rows_kept=sum(report.rows_kept for report in reports),
        rows_cut=sum(report.rows_cut for report in reports),
        dropped=dict(dropped),
        max_length=max(report.max_length for report in reports),
        lengths={name: pick(report.lengths[name] for report in reports) for name, pick in (("min", min), ("max", max))},
        total_tokens=sum(report.total_tokens for report in reports),
        label_tokens=sum(report.label_tokens for report in reports),
        example=reports[0].example,
        example_origin=reports[0].example_origin,
        notes=tuple(note for report in reports for note in report.notes),
    )


def length_quantiles(lengths: Sequence[int]) -> dict[str, int]:
    """Return min, 50 %, 90 %, 99 % and max, each a length that occurs (nearest rank, rounded up)."""
    ordered = sorted(lengths)
    if not ordered:
        return dict.fromkeys(_QUANTILES, 0)
    return {name: ordered[max(0, -int(-share * len(ordered) // 1) - 1)] for name, share in _QUANTILES.items()}


def _shortened(text: str) -> str:
    if len(text) <= _SHOWN:
        return text
    half = _SHOWN // 2
    return f"{text[:half]} […{len(text) - 2 * half:,} characters…] {text[-half:]}"
