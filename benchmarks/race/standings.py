"""The results of a race as rows: every entry of every contest, the absent and the losing ones too."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from race.cards import most_operations
from race.contests import CONTESTS, Bars
from race.entries import OURS, Entry
from race.peers import UNSLOTH
from race.spread import Spread
from race.table import MIB, aligned

HEADINGS = (
    "",
    "tokens/s",
    "petune is",
    "and compiled",
    "of the products",
    "FLOP use",
    "peak, MiB",
    "above the model, MiB",
    "petune takes",
    "s to the loss",
    "bar",
    "",
)


WITHOUT_COMPILER = 2 / 3
"""The share of a bar that petune is held to without its blocks compiled, where both were timed."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One entry of one contest; None where nothing was measured, and ``note`` says why."""

    contest: str
    entry: str
    tokens_per_second: Spread | None = None
    ratio: Spread | None = None
    """petune's tokens/s as a multiple of this entry's."""
    compiled_ratio: Spread | None = None
    """The same with petune's blocks compiled."""
    of_floor: float | None = None
    """Its tokens/s as a share of what the matrix products alone would allow."""
    flop_use: float | None = None
    """The operations of those products as a share of what the card's maker names; None on a CPU."""
    peak: Spread | None = None
    above: Spread | None = None
    """Memory above the loaded model."""
    above_ratio: Spread | None = None
    """petune's as a multiple of this entry's."""
    seconds_to_loss: float | None = None
    bar: str = ""
    met: bool | None = None
    """None where there is no bar."""
    note: str = ""

    def cells(self) -> tuple[str, ...]:
        """Return the texts of the line."""
        verdict = "" if self.met is None else "met" if self.met else "MISSED"
        return (
            f"  {self.entry}",
            "-" if self.tokens_per_second is None else self.tokens_per_second.text(".0f"),
            "" if self.ratio is None else f"x {self.ratio.text()}",
            "" if self.compiled_ratio is None else f"x {self.compiled_ratio.text()}",
            "" if self.of_floor is None else f"{self.of_floor:.0%}",
            "" if self.flop_use is None else f"{self.flop_use:.0%}",
            "" if self.peak is None else f"{self.peak.median / MIB:.0f}",
            "" if self.above is None else f"{self.above.median / MIB:.0f}",
            "" if self.above_ratio is None else f"x {self.above_ratio.text()}",
            "" if self.seconds_to_loss is None else f"{self.seconds_to_loss:.0f}",
            self.bar,
            " ".join(filter(None, [verdict, self.note])),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return asdict(self)


def standings_of(name: str, found: Mapping[str, Any], *, judged: bool) -> list[Standing]:
    """Return the rows of one contest.

    Args:
        name: the contest's name.
        found: what was measured of it.
        judged: whether bars are.
    """
    contest, rows = CONTESTS[name], []
    plain, compiled = (
        {timing["repeat"]: timing for timing in found["timings"] if timing["entry"] == entry.name}
        for entry in (Entry(OURS), Entry(OURS, "compiled"))
    )
    for key in found["entries"]:
        entry = Entry(*key.split(" "))
        timings = [timing for timing in found["timings"] if timing["entry"] == key]
        note = found["absent"].get(key) or found["verdicts"].get(key, {}).get("reason") or ""
        if not timings:
            rows.append(Standing(name, entry.title, note=note or "not timed"))
            continue
        rates = Spread.of([timing["tokens_per_second"] for timing in timings])
        ratios = {
            "speed": _ratio(plain, timings, "tokens_per_second"),
            "compiled": _ratio(compiled, timings, "tokens_per_second"),
            "above": _ratio(plain, timings, "above"),
        }
        share, card = rates.median / found["floor"]["tokens_per_second"], found["floor"].get("card")
        most = most_operations(card)
        bar, met = "", None
        if judged and not note:
            bar, met = _bar(contest.bars_on(card), contest.rival, entry, ratios, share)
        rows.append(
            Standing(
                name,
                entry.title,
                rates,
                None if entry.side == OURS else ratios["speed"],
                None if entry.side == OURS else ratios["compiled"],
                share,
                None if most is None else rates.median * found["floor"]["operations_per_token"] / most,
                Spread.of([timing["peak"] for timing in timings]),
                Spread.of([timing["above"] for timing in timings]),
                None if entry.side == OURS else ratios["above"],
                found["seconds_to_loss"].get(key),
                bar,
                met,
                note,
            )
        )
    return rows


def _ratio(own: Mapping[int, Mapping[str, Any]], timings: Sequence[Mapping[str, Any]], key: str) -> Spread | None:
    """Return petune's figure as a multiple of an entry's, repeat by repeat; None where petune was not timed so."""
    ratios = [own[timing["repeat"]][key] / timing[key] for timing in timings if timing["repeat"] in own]
    return Spread.of(ratios) if ratios else None


def _bar(
    bars: Bars, rival: str, entry: Entry, ratios: Mapping[str, Spread | None], share: float
) -> tuple[str, bool | None]:
    """Return what petune is held to in an entry's line, and whether it keeps it."""
    asked = []
    floor = {"default": bars.floor, "compiled": bars.floor_compiled}.get(entry.manner)
    if entry.side == OURS and floor is not None:
        asked.append((f"{floor:.0%} of the products", share >= floor))
    if entry.side in (rival, UNSLOTH):
        least = {"default": bars.default, "tuned": bars.tuned}.get(entry.manner)
        speed, compiled, above = ratios["speed"], ratios["compiled"], ratios["above"]
        if least is not None and compiled is not None:
            asked.append((f"x {least:g} compiled", compiled.median >= least))
            least *= WITHOUT_COMPILER
        if least is not None and speed is not None:
            asked.append((f"x {least:.3g}", speed.median >= least))
        if entry.manner == "default" and bars.memory is not None and above is not None:
            asked.append((f"at most x {bars.memory:g} above the model", above.median <= bars.memory))
    return ", ".join(text for text, _ in asked), all(met for _, met in asked) if asked else None


def render(results: Mapping[str, Any], rows: Sequence[Standing]) -> str:
    """Return the table as text, one part for each contest."""
    lines: list[tuple[str, ...]] = []
    for name, found in results["contests"].items():
        floor = found["floor"]
        way = f", in {floor['precision']}" if "precision" in floor else ""
        head = f"{found['title']}; the products alone{way}: {floor['tokens_per_second']:.0f} tokens/s"
        lines.append((head, *[""] * (len(HEADINGS) - 1)))
        lines += [row.cells() for row in rows if row.contest == name]
    widest = max(len(cells[0]) for cells in lines if any(cells[1:]))
    # Titles of contests may run over the columns beside them, which are empty there.
    table = aligned(HEADINGS, [(c[0][:widest] if not any(c[1:]) else c[0], *c[1:]) for c in lines])
    full = iter(table.splitlines())
    shown = [next(full), next(full)]
    shown += [cells[0] if not any(cells[1:]) else line for cells, line in zip(lines, full, strict=True)]
    return "\n".join(shown)
