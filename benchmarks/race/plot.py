"""The race as a picture: tokens/s of every entry beside what the matrix products alone would allow."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from race.standings import Standing


def draw(path: Path, results: Mapping[str, Any], rows: Sequence[Standing]) -> None:
    """Write the picture (PNG): one group of bars for each contest, whiskers from quartile to quartile."""
    names = list(results["contests"])
    entries = list(dict.fromkeys(row.entry for row in rows if row.tokens_per_second is not None))
    figure = Figure(figsize=(max(6, 1.6 + 1.7 * len(names)), 5), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    width = 0.8 / max(1, len(entries))
    for number, entry in enumerate(entries):
        found = [row for row in rows if row.entry == entry and row.tokens_per_second is not None]
        places = [names.index(row.contest) - 0.4 + (number + 0.5) * width for row in found]
        rates = [row.tokens_per_second for row in found if row.tokens_per_second is not None]
        spread = [[r.median - r.lower for r in rates], [r.upper - r.median for r in rates]]
        axes.bar(places, [r.median for r in rates], width, label=entry, yerr=spread, capsize=2)
    for place, name in enumerate(names):
        floor = results["contests"][name]["floor"]["tokens_per_second"]
        label = "matrix products alone" if place == 0 else None
        axes.hlines(floor, place - 0.45, place + 0.45, colors="black", linestyles="dashed", linewidth=1, label=label)
    axes.set_xticks(range(len(names)), [name.replace("_", "\n") for name in names], fontsize=8)
    axes.set_ylabel("real tokens a second")
    axes.set_title(results["machine"]["cpu"], fontsize=9)
    axes.grid(visible=True, axis="y", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
