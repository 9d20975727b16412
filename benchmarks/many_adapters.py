"""Several LoRA runs on one base at once, against the same runs in turn: time, memory, and the same losses."""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from race.machine import load_average, machine_facts, usable_cores
from race.processes import run_worker
from race.spread import Spread
from race.work import Work

from petune.data.reviews import movie_reviews

RESULTS = Path(__file__).parent / "results" / "many_adapters.json"
TIME_BARS = {2: 0.6, 16: 1.0}
"""Most time of all at once, as a share of that in turn, by rows of a step."""
MEMORY_BAR = 0.35
"""Most memory of the one process, as a share of that of a process for each."""
LOSS_BAR = 1e-4
"""Largest relative distance of the losses, in float32."""
MIB = 2**20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; return 0 where the losses agree and every bar is met, 1 where not."""
    options = parse(arguments)
    results: dict[str, Any] = {"date": datetime.now(UTC).strftime("%Y-%m-%d"), "quick": options.quick}
    results |= {"adapters": options.adapters, "threads": options.threads, "machine": machine_facts()}
    results["load_average_before"] = load_average()
    reviews = movie_reviews(options.data_rows, 60)
    with tempfile.TemporaryDirectory(prefix="petune-many-") as folder:
        bench = Bench(Work(Path(folder)), options, str(reviews.train))
        results["loss_distance"] = bench.loss_distance()
        print(f"largest relative distance of losses, float32: {results['loss_distance']:.1e}", flush=True)
        results["timings"] = [t for rows in options.rows for t in bench.timings(rows)]
        results["summary"] = summary = [summarise(results["timings"], rows) for rows in options.rows]
        slow = [row["rows"] for row in summary if row["time_bar"] and row["time"]["median"] > row["time_bar"]]
        results["profiles"] = [bench.profiles(rows) for rows in (options.rows if options.profile else slow)]
    results["load_average_after"] = load_average()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"\n{describe(results)}\n\n{table(summary, options.adapters)}")
    for profiled in results["profiles"]:
        print(f"\n{profile_table(profiled)}")
    missed = bool(slow) or any(row["memory"]["median"] > MEMORY_BAR for row in summary)
    # The quick edition is too short for its timings to be judged.
    return int(results["loss_distance"] > LOSS_BAR or (missed and not options.quick))


class Bench:
    """Runs the workers.

    Args:
        work: a folder for what they write.
        options: the command line's.
        data: the training rows.
    """

    def __init__(self, work: Work, options: argparse.Namespace, data: str) -> None:
        self._work = work
        self._options = options
        self._data = data
        self._seeds = list(range(1, options.adapters + 1))
        self._count = 0

    def loss_distance(self) -> float:
        """Return the largest relative distance of the first losses of all at once to those of each alone."""
        few = self._seeds[:2] if self._options.quick else self._seeds
        together = self._run(few, rows=2, steps=3, dtype="float32")["losses"]
        alone = [self._run([seed], rows=2, steps=3, dtype="float32")["losses"][0] for seed in few]
        pairs = [pair for own, other in zip(together, alone, strict=True) for pair in zip(own, other, strict=True)]
        return max(abs(ours - theirs) / theirs for ours, theirs in pairs)

    def timings(self, rows: int) -> list[dict[str, Any]]:
        """Return seconds and peak memory of all at once, and of each alone, in turn, of every repeat."""
        found = []
        for repeat in range(self._options.repeats):
            at_once = self._timed(self._seeds, rows)
            alone = [self._timed([seed], rows) for seed in self._seeds]
            found.append({"rows": rows, "repeat": repeat, "at_once": at_once, "alone": alone})
            took = sum(one["seconds"] for one in alone)
            print(f"  {rows} rows a step: {at_once['seconds']:.1f} s at once, {took:.1f} s in turn", flush=True)
        return found

    def profiles(self, rows: int) -> dict[str, Any]:
        """Return where the time goes: of all at once, and of one alone."""
        found = {
            name: self._run(seeds, rows=rows, steps=self._steps, dtype="bfloat16", profiled=True)["profile"]
            for name, seeds in (("at_once", self._seeds), ("alone", self._seeds[:1]))
        }
        return {"rows": rows, "adapters": len(self._seeds), **found}

    @property
    def _steps(self) -> int:
        return int(self._options.steps) + int(self._options.warm_up)

    def _timed(self, seeds: list[int], rows: int) -> dict[str, float]:
        report = self._run(seeds, rows=rows, steps=self._steps, dtype="bfloat16")
        seconds = report["ends"][-1] - report["ends"][self._options.warm_up]
        return {"seconds": seconds, "peak_memory": report["peak"], "load_average": load_average()}

    def _run(self, seeds: list[int], *, rows: int, steps: int, dtype: str, **more: Any) -> dict[str, Any]:
        self._count += 1
        output = str(self._work.folder / str(self._count))
        asked = {"seeds": seeds, "rows": rows, "steps": steps, "dtype": dtype, "data": self._data, "output": output}
        return run_worker(self._work, "together", self._options.threads, **asked, warm_up=self._options.warm_up, **more)


def summarise(timings: Sequence[dict[str, Any]], rows: int) -> dict[str, Any]:
    """Return the medians of one size of step, and the ratios with their spread."""
    own = [timing for timing in timings if timing["rows"] == rows]
    sums = {key: [sum(one[key] for one in t["alone"]) for t in own] for key in ("seconds", "peak_memory")}
    at_once = {key: [t["at_once"][key] for t in own] for key in sums}
    ratios = {key: Spread.of([a / b for a, b in zip(at_once[key], sums[key], strict=True)]) for key in sums}
    return {
        "rows": rows,
        "time_bar": TIME_BARS.get(rows),
        "time": _dict(ratios["seconds"]),
        "memory": _dict(ratios["peak_memory"]),
        "seconds": [Spread.of(at_once["seconds"]).median, Spread.of(sums["seconds"]).median],
        "peak_memory": [Spread.of(at_once["peak_memory"]).median, Spread.of(sums["peak_memory"]).median],
    }


def table(summary: Sequence[dict[str, Any]], adapters: int) -> str:
    """Return the table of times and memory, in Markdown."""
    lines = [f"| {adapters} LoRA runs | at once | in turn | ratio | bar | |", "|---|---|---|---|---|---|"]
    for row in summary:
        seconds, memory = row["seconds"], [value / MIB for value in row["peak_memory"]]
        cells = [
            (f"{row['rows']} rows a step, seconds", "{:.1f}", seconds, row["time"], row["time_bar"]),
            (f"{row['rows']} rows a step, MiB of the processes", "{:,.0f}", memory, row["memory"], MEMORY_BAR),
        ]
        for name, form, (ours, theirs), ratio, bar in cells:
            verdict = "" if bar is None else "met" if ratio["median"] <= bar else "MISSED"
            spread = Spread(**ratio).text()
            limit = "" if bar is None else f"at most {bar}"
            lines.append(f"| {name} | {form.format(ours)} | {form.format(theirs)} | {spread} | {limit} | {verdict} |")
    return "\n".join(lines)


def profile_table(profiled: dict[str, Any]) -> str:
    """Return where the time of the measured steps goes: in matrix products, and in all else."""
    rows, adapters = profiled["rows"], profiled["adapters"]
    once, alone = profiled["at_once"], profiled["alone"]
    floor = once["products"] / (adapters * alone["seconds"])
    lines = [f"Where the time goes, {rows} rows a step:", "", "| | products, s | all else, s |", "|---|---|---|"]
    for name, one, times in (("at once", once, 1), (f"one alone, {adapters} times", alone, adapters)):
        lines.append(f"| {name} | {one['products'] * times:.2f} | {(one['seconds'] - one['products']) * times:.2f} |")
    lines += ["", f"The products at once alone take {floor:.2f} of the time in turn: no less is possible.", ""]
    lines += ["| longest at once | seconds | calls |", "|---|---|---|"]
    lines += [f"| {name} | {e['seconds']:.2f} | {e['calls']:,} |" for name, e in once["longest"].items()]
    return "\n".join(lines)


def describe(results: dict[str, Any]) -> str:
    """Return what was run, and on what."""
    machine = results["machine"]
    return (
        f"{machine['cpu']}, {results['threads']} threads, torch {machine['versions']['torch']},"
        f" load {results['load_average_before']} before and {results['load_average_after']} after"
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, help="runs at once (default 8)")
    parser.add_argument("--rows", type=int, nargs="+", help="rows of a step (default 2 16)")
    parser.add_argument("--steps", type=int, help="steps timed (default 12)")
    parser.add_argument("--warm-up", type=int, default=2, help="steps before (default 2)")
    parser.add_argument("--repeats", type=int, help="timings of each (default 3)")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="threads (default: all cores)")
    parser.add_argument("--profile", action="store_true", help="show where the time goes, also where bars are met")
    parser.add_argument("--quick", action="store_true", help="a small edition: a minute, timings not judged")
    parser.add_argument("--output", type=Path, default=RESULTS, help="file of the results (JSON)")
    options = parser.parse_args(arguments)
    sizes = {"adapters": 2, "rows": [2], "steps": 2, "repeats": 1} if options.quick else {}
    for name, value in {"adapters": 8, "rows": [2, 16], "steps": 12, "repeats": 3, **sizes}.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.data_rows = 208 if options.quick else 2000
    if min(options.adapters, options.steps, options.warm_up, options.repeats, *options.rows) < 1:
        raise SystemExit("give whole numbers of 1 or more")
    return options


def _dict(spread: Spread) -> dict[str, float]:
    return {"median": spread.median, "lower": spread.lower, "upper": spread.upper}


if __name__ == "__main__":
    sys.exit(main())
