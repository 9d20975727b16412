"""Full fine-tuning whose freed memory goes back to the system after each step, and with it kept for the next one."""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from typing import final

from race.machine import machine_facts, usable_cores

import petune
from petune.data.reviews import movie_reviews, prompt_format
from petune.training import loop
from petune.training.events import Silent, Step

WAYS = ("given back", "kept")
WARM_UP = 3
"""Steps that are not timed: the optimiser takes its memory in the first."""


@final
class Follower(Silent):
    """Notes what each step took."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.pages = [resource.getrusage(resource.RUSAGE_SELF).ru_minflt]
        self.memory = 0

    def stepped(self, step: Step) -> None:
        """Note its time, the pages that the kernel handed out by its end, and the most memory so far."""
        self.seconds.append(step.seconds)
        self.pages.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
        self.memory = step.memory


def measured(way: str, model: str, rows: int, steps: int) -> dict[str, float]:
    """Return seconds and new pages of a step, medians, and the most MiB of this process."""
    if way == "given back":
        loop.freed_memory_kept = lambda device: nullcontext()  # type: ignore[assignment]
    follower = Follower()
    with tempfile.TemporaryDirectory() as folder:
        keys = {"model": model, "data": str(movie_reviews(256, 16).train), "method": "full", **prompt_format()}
        run = {"per_device_train_batch_size": rows, "max_steps": WARM_UP + steps, "save_steps": 10**6}
        petune.train({**keys, **run, "output_dir": f"{folder}/run"}, listeners=[follower])
    pages = [after - before for before, after in zip(follower.pages, follower.pages[1:], strict=False)]
    return {
        "seconds": statistics.median(follower.seconds[WARM_UP:]),
        "pages": statistics.median(pages[WARM_UP:]),
        "memory": follower.memory / 2**20,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each way, medians over runs in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo", help="base model (default demo)")
    parser.add_argument("--rows", type=int, default=16, help="rows of a step (default 16)")
    parser.add_argument("--steps", type=int, default=8, help="steps that are timed in each run (default 8)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each way, in turn (default 3)")
    parser.add_argument("--only", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.only is not None:
        print(json.dumps(measured(options.only, options.model, options.rows, options.steps)))
        return 0
    print(f"{machine_facts()['cpu']}, {usable_cores()} cores; full fine-tuning, {options.rows} reviews a step")
    print("\n| freed memory is | seconds a step | new pages a step | MiB at most |\n|---|---|---|---|")
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(options.repeats):
        for way in WAYS:
            found[way].append(in_a_process(way, options))
    for way, runs in found.items():
        median = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        print(f"| {way} | {median['seconds']:.3f} | {median['pages']:,.0f} | {median['memory']:,.0f} |")
    given, kept = ([run["seconds"] for run in found[way]] for way in WAYS)
    ratios = [after / before for before, after in zip(given, kept, strict=True)]
    print(f"\nKept against given back: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    return 0


def in_a_process(way: str, options: argparse.Namespace) -> dict[str, float]:
    """Return what :func:`measured` finds in a process of its own."""
    own = ["--only", way, "--model", options.model, "--rows", str(options.rows), "--steps", str(options.steps)]
    done = subprocess.run([sys.executable, __file__, *own], check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    sys.exit(main())
