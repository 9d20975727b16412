"""The results as rows: what each side reached, how they compare, and the bar."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from race.gates import Gate
from race.quality import ACCURACY_MARGIN
from race.speed import MEMORY_BAR, SPEED_BAR, TITLES, summarise
from race.spread import Spread

MIB = 2**20
HEADINGS = ("", "petune", "PEFT", "petune against PEFT", "bar", "")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    name: str
    petune: str
    peft: str
    comparison: str
    bar: str = ""
    met: bool | None = None
    """None where there is no bar."""

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return asdict(self)

    def cells(self) -> tuple[str, ...]:
        """Return the texts of the line."""
        verdict = "" if self.met is None else "met" if self.met else "MISSED"
        return (self.name, self.petune, self.peft, self.comparison, self.bar, verdict)


def gate_rows(gates: Sequence[Gate]) -> list[Row]:
    """Return the conditions of correctness."""
    return [
        Row(
            gate.name,
            f"{gate.petune:.3g}",
            "" if gate.peft is None else f"{gate.peft:.3g}",
            "",
            "" if gate.bar is None else f"{'above' if gate.floor else 'at most'} {gate.bar:.3g}",
            gate.passed,
        )
        for gate in gates
    ]


def speed_rows(timings: list[dict[str, Any]]) -> list[Row]:
    """Return speed and memory against each manner of running the peer; the bars hold for the same work."""
    summary = summarise(timings)
    rows = []
    for side in [side for side in TITLES if side in summary]:
        title = TITLES[side]
        judged = side == "same-order"
        speed, memory = summary[side]["tokens_per_second_ratio"], summary[side]["peak_memory_ratio"]
        rows.append(
            Row(
                f"tokens/s; {title}",
                summary["petune"]["tokens_per_second"].text(".0f"),
                summary[side]["tokens_per_second"].text(".0f"),
                f"x {speed.text()}",
                f"at least {SPEED_BAR}" if judged else "",
                speed.median >= SPEED_BAR if judged else None,
            )
        )
        rows.append(
            Row(
                f"peak memory, MiB; {title}",
                _mebibytes(summary["petune"]["peak_memory"]),
                _mebibytes(summary[side]["peak_memory"]),
                f"x {memory.text()}",
                f"at most {MEMORY_BAR}" if judged else "",
                memory.median <= MEMORY_BAR if judged else None,
            )
        )
        above = summary[side]["memory_of_steps_ratio"]
        rows.append(
            Row(
                f"memory gained in the steps, MiB; {title}",
                _mebibytes(summary["petune"]["memory_of_steps"]),
                _mebibytes(summary[side]["memory_of_steps"]),
                f"x {above.text()}",
            )
        )
    return rows


def quality_rows(quality: dict[str, dict[str, Any]]) -> list[Row]:
    """Return held-out accuracy and what the whole pass took."""
    base, ours, theirs = quality["base"], quality["petune"], quality["peft"]
    accuracy = ours["accuracy"] - theirs["accuracy"]
    return [
        Row("held-out accuracy, untrained base", f"{base['accuracy']:.3f}", f"{base['accuracy']:.3f}", ""),
        Row(
            "held-out accuracy, one pass",
            f"{ours['accuracy']:.3f}",
            f"{theirs['accuracy']:.3f}",
            f"{accuracy:+.3f}",
            f"at least {-ACCURACY_MARGIN}",
            # Accuracies are counts over the rows; the margin is widened by less than one row's worth of rounding.
            accuracy >= -ACCURACY_MARGIN - 1e-9,
        ),
        Row(
            "held-out loss, one pass",
            f"{ours['loss']:.4f}",
            f"{theirs['loss']:.4f}",
            f"{ours['loss'] - theirs['loss']:+.4f}",
        ),
        Row(
            "peak memory of the pass, MiB",
            f"{ours['peak_memory'] / MIB:.0f}",
            f"{theirs['peak_memory'] / MIB:.0f}",
            f"x {ours['peak_memory'] / theirs['peak_memory']:.2f}",
        ),
    ]


def render(rows: Sequence[Row]) -> str:
    """Return the table as text, columns aligned."""
    return aligned(HEADINGS, [row.cells() for row in rows])


def aligned(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """Return lines of texts as a table, columns aligned."""
    lines = [tuple(headings), *map(tuple, cells)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _mebibytes(spread: Spread) -> str:
    return Spread(spread.median / MIB, spread.lower / MIB, spread.upper / MIB).text(".0f")
