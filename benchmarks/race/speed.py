"""Tokens a second and peak memory, each timing in a fresh process, the sides in turn."""

from collections.abc import Callable
from typing import Any

from race.machine import load_average
from race.processes import run_worker
from race.spread import Spread
from race.work import Work

SPEED_BAR = 1.5
MEMORY_BAR = 0.8
TITLES = {
    "same-order": "PEFT + Trainer, same rows in each step",
    "default": "PEFT + Trainer, its own shuffling",
    "tuned": "PEFT + Trainer, same rows, tuned",
}


def race(work: Work, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Return one entry for each timing, in the order of time: petune, then each manner of the peer, and again."""
    settings, timings = work.settings, []
    steps = settings.warm_up_steps + settings.timed_steps
    for repeat in range(settings.repeats):
        for side in ("petune", *settings.peers):
            manner = {} if side == "petune" else {"variant": side, "log_every_step": False}
            name = "petune_side" if side == "petune" else "peft_side"
            output = str(work.folder / f"timed-{side}-{repeat}")
            load = load_average()
            report = run_worker(work, name, settings.threads, steps=steps, dtype="bfloat16", output=output, **manner)
            timing = {"side": side, "repeat": repeat, "load_average": load, **figures(report, settings.warm_up_steps)}
            tell(f"  {side}, repeat {repeat + 1}: {timing['tokens_per_second']:.0f} tokens/s")
            timings.append(timing)
    return timings


def figures(report: dict[str, Any], warm_up_steps: int) -> dict[str, float]:
    """Return what one process achieved after its warm-up; tokens are real ones, padding is not counted."""
    seconds = report["ends"][-1] - report["ends"][warm_up_steps]
    tokens = sum(report["tokens"][warm_up_steps:])
    return {
        "seconds": seconds,
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "peak_memory": report["peak"],
        "memory_of_steps": report["peak"] - report["resident_before_steps"],
        "peak_while_loading": report["peak_before_steps"],
    }


def summarise(timings: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return, for each side, the spread of its figures and of petune's ratios to it.

    A ratio is of two timings of the same repeat: they are neighbours in time, so that a machine that slows down slows
    both.
    """
    keys = ("tokens_per_second", "peak_memory", "memory_of_steps")
    own = {timing["repeat"]: timing for timing in timings if timing["side"] == "petune"}
    summary: dict[str, dict[str, Any]] = {}
    for side in dict.fromkeys(timing["side"] for timing in timings):
        theirs = [timing for timing in timings if timing["side"] == side]
        summary[side] = {key: Spread.of([timing[key] for timing in theirs]) for key in keys}
        ratios = {key: [own[t["repeat"]][key] / t[key] for t in theirs] for key in keys}
        summary[side] |= {f"{key}_ratio": Spread.of(values) for key, values in ratios.items()}
    return summary
