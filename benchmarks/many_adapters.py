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
WARM_UP = 1
"""Steps before those that are timed; the base is loaded then."""
TIMES = ("seconds", "processor_seconds")
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
        results["timings"] = timings = [t for rows in options.rows for t in bench.timings(rows)]
        results["memory"] = memory = [bench.memory(rows) for rows in options.rows]
        results["summary"] = summary = [summarise(timings, own, own["rows"], options.adapters) for own in memory]
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
        together, *alone = self._run([few, *([seed] for seed in few)], 2, 3, dtype="float32")["groups"]
        apart = [one["losses"][0] for one in alone]
        pairs = [
            pair for own, other in zip(together["losses"], apart, strict=True) for pair in zip(own, other, strict=True)
        ]
        return max(abs(ours - theirs) / theirs for ours, theirs in pairs)

    def timings(self, rows: int) -> list[dict[str, Any]]:
        """Return the time of all at once, and of each alone, in turn, of every repeat; all of it in one process."""
        size = 1 + len(self._seeds)
        groups = [self._seeds, *([seed] for seed in self._seeds)] * self._options.repeats
        ran = self._run(groups, rows, self._options.steps or steps_for(rows))["groups"]
        times = [{key: one[key] for key in TIMES} for one in ran]
        parts = [times[start : start + size] for start in range(0, len(times), size)]
        found = [{"rows": rows, "at_once": part[0], "alone": part[1:]} for part in parts]
        for timing in found:
            took = sum(one["seconds"] for one in timing["alone"])
            print(
                f"  {rows} rows a step: {timing['at_once']['seconds']:.1f} s at once, {took:.1f} s in turn", flush=True
            )
        return found

    def memory(self, rows: int) -> dict[str, Any]:
        """Return the most bytes of a process for all at once, and of one for the first alone, as for any other."""
        peaks = {
            name: self._run([seeds], rows, 2)["peak"]
            for name, seeds in (("at_once", self._seeds), ("alone", self._seeds[:1]))
        }
        return {"rows": rows, **peaks}

    def profiles(self, rows: int) -> dict[str, Any]:
        """Return where the time goes: of all at once, and of one alone."""
        once, alone = self._run([self._seeds, self._seeds[:1]], rows, 2, profiled=True)["groups"]
        return {"rows": rows, "adapters": len(self._seeds), "at_once": once["profile"], "alone": alone["profile"]}

    def _run(
        self, groups: list[list[int]], rows: int, steps: int, *, dtype: str = "bfloat16", **more: Any
    ) -> dict[str, Any]:
        self._count += 1
        output = str(self._work.folder / str(self._count))
        asked = {"groups": groups, "rows": rows, "steps": steps, "dtype": dtype, "data": self._data, "output": output}
        return run_worker(self._work, "together", self._options.threads, **asked, warm_up=WARM_UP, **more)


def steps_for(rows: int) -> int:
    """Return how many steps are timed: few where they are large, so that all figures take a quarter of an hour."""
    return max(4, 16 // rows)


def summarise(timings: Sequence[dict[str, Any]], memory: dict[str, Any], rows: int, adapters: int) -> dict[str, Any]:
    """Return the medians of one size of step, and the ratios with their spread."""
    own = [timing for timing in timings if timing["rows"] == rows]
    sums = {key: [sum(one[key] for one in t["alone"]) for t in own] for key in TIMES}
    at_once = {key: [t["at_once"][key] for t in own] for key in TIMES}
    ratios = {key: Spread.of([a / b for a, b in zip(at_once[key], sums[key], strict=True)]) for key in TIMES}
    peaks = [memory["at_once"], adapters * memory["alone"]]
    return {
        "rows": rows,
        "time_bar": TIME_BARS.get(rows),
        "time": _dict(ratios["seconds"]),
        "processor_time": _dict(ratios["processor_seconds"]),
        "memory": _dict(Spread.of([peaks[0] / peaks[1]])),
        "seconds": [Spread.of(at_once["seconds"]).median, Spread.of(sums["seconds"]).median],
        "processor_seconds": [Spread.of(times["processor_seconds"]).median for times in (at_once, sums)],
        "peak_memory": peaks,
    }


def table(summary: Sequence[dict[str, Any]], adapters: int) -> str:
    """Return the table of times and memory, in Markdown."""
    lines = [f"| {adapters} LoRA runs | at once | in turn | ratio | bar | |", "|---|---|---|---|---|---|"]
    for row in summary:
        seconds, memory = row["seconds"], [value / MIB for value in row["peak_memory"]]
        cells = [
            (f"{row['rows']} rows a step, seconds", "{:.1f}", seconds, row["time"], row["time_bar"]),
            (
                f"{row['rows']} rows a step, of processors",
                "{:.1f}",
                row["processor_seconds"],
                row["processor_time"],
                None,
            ),
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
    parser.add_argument("--steps", type=int, help="steps timed (default: 8 of 2 rows, 4 of 16)")
    parser.add_argument("--repeats", type=int, help="timings of each (default 3)")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="threads (default: all cores)")
    parser.add_argument("--profile", action="store_true", help="show where the time goes, also where bars are met")
    parser.add_argument("--quick", action="store_true", help="a small edition: a minute, timings not judged")
    parser.add_argument("--output", type=Path, default=RESULTS, help="file of the results (JSON)")
    options = parser.parse_args(arguments)
    sizes = {"adapters": 2, "rows": [2], "steps": 2, "repeats": 1} if options.quick else {}
    for name, value in {"adapters": 8, "rows": [2, 16], "repeats": 3, **sizes}.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.data_rows = 208 if options.quick else 600
    if min(options.adapters, 1 if options.steps is None else options.steps, options.repeats, *options.rows) < 1:
        raise SystemExit("give whole numbers of 1 or more")
    return options


def _dict(spread: Spread) -> dict[str, float]:
    return {"median": spread.median, "lower": spread.lower, "upper": spread.upper}


if __name__ == "__main__":
    sys.exit(main())
