"""Estimates of time and memory against what runs took, over methods and sizes of steps; memory budgets besides."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from race.machine import machine_facts, usable_cores
from race.processes import THREAD_VARIABLES

from petune import methods
from petune.data.reviews import movie_reviews, prompt_format
from petune.training.estimate import TOLERANCE

RESULTS = Path(__file__).parent / "results" / "estimates.json"
MIB = 2**20
BUDGETED = 0.7
"""Part of what a run took above the loaded model that it is to do with under a budget."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each run; return 1 where an estimate is too far off or a budget was not kept."""
    options = parse(arguments)
    if options.run is not None:
        return run(json.loads(options.run), options.model)
    data = options.data or movie_reviews(options.rows, 16).train
    print(f"{machine_facts()['cpu']}, {options.threads} threads, {options.rows} rows, {options.max_steps} steps")
    print("\n| method | rows | s | estimated | off | MiB above the model | estimated | in all | off | computed again |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    found: list[dict[str, Any]] = []
    options.output.parent.mkdir(parents=True, exist_ok=True)

    def tell(one: dict[str, Any]) -> None:
        found.append(one)
        options.output.write_text(json.dumps({"machine": machine_facts(), "runs": found}, indent=2) + "\n")
        print(line(one), flush=True)

    for rows in options.batch_sizes:
        for method in options.methods:
            keys = {"method": method, "data": str(data), "per_device_train_batch_size": rows, **prompt_format()}
            keys |= {"max_steps": options.max_steps}
            plain = fresh(keys, options)
            tell(plain)
            if options.budgets:
                budget = plain["model"] + int(BUDGETED * (plain["peak"] - plain["model"]))
                tell({**fresh({**keys, "memory_budget": str(budget)}, options), "budget": budget})
    wrong = [one for one in found if not holds(one)]
    print(f"\n{len(found) - len(wrong)} of {len(found)} within {TOLERANCE:.0%} and their budgets")
    return 1 if wrong else 0


def fresh(keys: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Return what a run in a fresh process was estimated to take, and took."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        task = {**keys, "output_dir": f"{folder}/run", "report": str(report)}
        subprocess.run(
            [sys.executable, __file__, "--run", json.dumps(task), "--model", str(options.model)],
            env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(options.threads))},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        return found


def run(task: dict[str, Any], model: str) -> int:
    """Do one run in this process, and write down what it took."""
    import petune
    from petune.errors import ConfigError

    report = Path(task.pop("report"))
    found = {"method": task["method"], "rows": task["per_device_train_batch_size"]}
    try:
        result = petune.train({**task, "model": model}, estimate=True)
    except ConfigError as error:
        if "memory_budget" not in task:
            raise
        report.write_text(json.dumps({**found, "refused": str(error)}), encoding="utf-8")
        return 0
    assert result.estimate is not None
    found |= {
        "seconds": result.seconds,
        "peak": result.peak_memory,
        "model": result.estimate.model,
        "estimate": result.estimate.to_dict(),
    }
    report.write_text(json.dumps(found), encoding="utf-8")
    return 0


def holds(one: Mapping[str, Any]) -> bool:
    """Say whether a run's estimates were near enough, and its budget was kept, or refused before any step."""
    return "refused" in one or (
        max(map(abs, errors(one))) <= TOLERANCE and one["peak"] <= one.get("budget", one["peak"])
    )


def errors(one: Mapping[str, Any]) -> tuple[float, float]:
    """Return by what part the estimates of time and of memory were too high."""
    guess = one["estimate"]
    return guess["seconds"] / one["seconds"] - 1, guess["memory_bytes"] / one["peak"] - 1


def line(one: Mapping[str, Any]) -> str:
    """Return the line of a run in the table."""
    if "refused" in one:
        return f"| {one['method']}, budget {one['budget'] / MIB:,.0f} MiB | {one['rows']} | refused: {one['refused']} |"
    guess, (time, memory) = one["estimate"], errors(one)
    name = one["method"] + (f", budget {one['budget'] / MIB:,.0f} MiB" if "budget" in one else "")
    above = (one["peak"] - one["model"]) / MIB, (guess["memory_bytes"] - one["model"]) / MIB
    return (
        f"| {name} | {one['rows']} | {one['seconds']:.1f} | {guess['seconds']:.1f} | {time:+.0%} | {above[0]:,.0f} |"
        f" {above[1]:,.0f} | {one['peak'] / MIB:,.0f} | {memory:+.0%} | {guess['recomputed'] or 'nothing'} |"
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    trained = [name for name in methods.names() if methods.get(name).trains and name != "bitfit"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", choices=trained, default=trained, help="methods (default: all)")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[4, 16], help="rows of a step (default 4 16)")
    parser.add_argument("--max-steps", type=int, default=30, help="steps of a run (default 30)")
    parser.add_argument("--rows", type=int, default=400, help="movie reviews (default 400)")
    parser.add_argument("--data", type=Path, help="other rows")
    parser.add_argument("--model", default="demo", help="base (default: SmolLM2)")
    parser.add_argument("--budgets", action=argparse.BooleanOptionalAction, default=True, help="run under budgets too")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="threads (default: all cores)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the figures go, as JSON")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
