"""A small comparison whose search shares passes over the base, against the same one without: time, memory, results."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from race.machine import machine_facts, usable_cores
from race.spread import Spread

import petune
from petune.backbone.precision import pick_device
from petune.comparison.job import Job
from petune.comparison.record import Comparison, Trial
from petune.comparison.watching import Unwatched
from petune.data.reviews import movie_reviews, prompt_format
from petune.training.memory import peak_memory, reset_peak

METHODS = ("lora", "prompt_tuning")
RATES = (0.3, 1.0, 3.0, 10.0)
DEVELOPMENT = 24
"""Training rows set aside to judge the candidates."""
MIB = 2**20
CPU = pick_device("cpu")


class MemoryOfSearches(Unwatched):
    """Notes the most memory that the process held in trials of the search."""

    def __init__(self) -> None:
        self.peak = 0

    def began(self, job: Job) -> None:
        """Let the peak begin anew."""
        reset_peak(CPU)

    def ended(self, job: Job, trial: Trial, *, reused: bool) -> None:
        """Take the peak in."""
        if trial.stage == "search":
            self.peak = max(self.peak, peak_memory(CPU))


@dataclass(frozen=True)
class Way:
    """A comparison that was run one way."""

    found: Comparison
    peak: int

    @property
    def searches(self) -> list[Trial]:
        """The trials of its search."""
        return [trial for trial in self.found.trials if trial.stage == "search"]

    @property
    def training(self) -> float:
        """Seconds that the search trained."""
        return sum(trial.seconds or 0.0 for trial in self.searches)

    @property
    def whole(self) -> float:
        """Seconds of the whole search."""
        return self.found.search_cost.seconds


def run(keys: dict[str, Any], *, share: bool) -> Way:
    """Run the comparison one way."""
    memory = MemoryOfSearches()
    with tempfile.TemporaryDirectory() as folder:
        own = {**keys, "share_passes": share, "output_dir": f"{folder}/out"}
        return Way(petune.compare(own, watcher=memory), memory.peak)


def distance(one: Way, other: Way) -> float:
    """Return the largest relative distance of the validation losses of the same trials."""
    pairs = [(a.eval_loss, b.eval_loss) for a, b in zip(one.searches, other.searches, strict=True)]
    return max(abs(a - b) / b for a, b in pairs if a is not None and b is not None)


def measure(keys: dict[str, Any], rows: int, repeats: int) -> None:
    """Print the lines of one size of step."""
    both = partial(run, {**keys, "per_device_train_batch_size": rows})
    pairs = [(both(share=True), both(share=False)) for _ in range(repeats)]
    for name, value in (
        ("training", lambda way: way.training),
        ("whole search", lambda way: way.whole),
    ):
        ours, theirs = (Spread.of([value(pair[side]) for pair in pairs]).median for side in (0, 1))
        ratio = Spread.of([value(one) / value(other) for one, other in pairs]).text()
        print(f"| {rows} rows a step, {name}, s | {ours:.1f} | {theirs:.1f} | {ratio} |", flush=True)
    memory = [max(pair[side].peak for pair in pairs) / MIB for side in (0, 1)]
    print(
        f"| {rows} rows a step, peak memory, MiB | {memory[0]:,.0f} | {memory[1]:,.0f} | {memory[0] / memory[1]:.2f} |"
    )
    print(f"| {rows} rows a step, distance of losses | {distance(*pairs[0]):.1e} | | |", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[2, 8], help="rows of a step (default 2 8)")
    parser.add_argument("--steps", type=int, default=36, help="steps of a final trial (default 36)")
    parser.add_argument("--data-rows", type=int, default=240, help="movie reviews to train on (default 240)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each way, in turn (default 3)")
    parser.add_argument("--dtype", default="bfloat16", help="precision of the base (default bfloat16)")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="threads (default: all cores)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    reviews = movie_reviews(options.data_rows, 60)
    keys = {
        **prompt_format(),
        "models": ["demo"],
        "data": str(reviews.train),
        "test_data": str(reviews.test),
        "validation_split": DEVELOPMENT,
        "methods": list(METHODS),
        "rate_factors": list(RATES),
        "baselines": False,
        "budget": options.steps,
        "budget_unit": "steps",
        "evaluations": 1,
        "forgetting": False,
        "examples": 0,
        "keep_adapters": False,
        "dtype": options.dtype,
        "device": "cpu",
        "engine": "inline",  # memory is read from this process
    }
    print(f"{machine_facts()['cpu']}, {options.threads} threads, torch {torch.__version__}, {options.dtype}")
    print(f"\n| search of {', '.join(METHODS)} | shared | one by one | ratio |\n|---|---|---|---|")
    for rows in options.rows:
        measure(keys, rows, options.repeats)
    return 0


if __name__ == "__main__":
    sys.exit(main())
