"""Trains some adapters in one process, as `petune.train_many` does it for anybody."""

import time
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

import petune
from petune.data.reviews import prompt_format
from petune.training.events import Plan, Silent, Step
from race.clock import StepClock
from race.task import Task

PRODUCTS = frozenset({"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"})


class Watch(Silent):
    """Notes the time of each step of the last adapter, whose steps end a round; may profile the later ones.

    Args:
        warm_up: rounds before the profile begins.
        steps: all rounds.
        profiled: whether to profile.
    """

    def __init__(self, warm_up: int, steps: int, *, profiled: bool) -> None:
        self.clock = StepClock()
        self.profile: Any = profile(activities=[ProfilerActivity.CPU]) if profiled else None
        self._warm_up, self._steps = warm_up, steps
        self.began = 0.0
        self.seconds = 0.0

    def started(self, plan: Plan) -> None:
        """Begin the clock."""
        self.clock.begin()

    def stepped(self, step: Step) -> None:
        """Note a step."""
        self.clock.step()
        if self.profile is not None and step.step == self._warm_up:
            self.profile.__enter__()
            self.began = time.perf_counter()
        elif self.profile is not None and step.step == self._steps:
            self.seconds = time.perf_counter() - self.began
            self.profile.__exit__(None, None, None)

    def shares(self) -> dict[str, Any]:
        """Return the seconds of matrix products and of all else, and the operations that took longest."""
        events = [e for e in self.profile.key_averages() if e.self_cpu_time_total]
        products = sum(e.self_cpu_time_total for e in events if e.key in PRODUCTS) / 1e6
        events.sort(key=lambda event: -event.self_cpu_time_total)
        longest = {e.key: {"seconds": e.self_cpu_time_total / 1e6, "calls": e.count} for e in events[:12]}
        return {"seconds": self.seconds, "products": products, "longest": longest}


def main() -> None:
    """Train the adapters of ``seeds``, ``steps`` steps each, the first ``warm_up`` of which are not profiled."""
    task = Task.from_command_line()
    asked = task.arguments
    seeds, steps = asked["seeds"], int(asked["steps"])
    watch = Watch(asked["warm_up"], steps, profiled=asked.get("profiled", False))
    losses: dict[int, list[float]] = {seed: [] for seed in seeds}

    class Losses(Silent):
        def __init__(self, seed: int) -> None:
            self._own = losses[seed]

        def stepped(self, step: Step) -> None:
            self._own.append(step.loss)

    recipes = [recipe(task, seed, steps) for seed in seeds]
    listeners: dict[str, list[Silent]] = {str(seed): [Losses(seed)] for seed in seeds}
    listeners[str(seeds[-1])].append(watch)
    outcomes = petune.train_many(recipes, listeners=listeners)
    failed = [outcome.error for outcome in outcomes if outcome.error is not None]
    if failed:
        raise failed[0]
    answer = {**watch.clock.report(), "losses": [losses[seed] for seed in seeds]}
    task.answer({**answer, "profile": watch.shares()} if watch.profile is not None else answer)


def recipe(task: Task, seed: int, steps: int) -> dict[str, Any]:
    """Return the recipe of one LoRA: rank 8 on q, k, v and o."""
    return {
        **prompt_format(),
        "model": "demo",
        "dtype": task.arguments["dtype"],
        "device": "cpu",
        "data": task.arguments["data"],
        "method": "lora",
        "r": 8,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
        "per_device_train_batch_size": task.arguments["rows"],
        "max_steps": steps,
        "save_steps": steps,
        "seed": seed,
        "output_dir": str(Path(task.arguments["output"]) / str(seed)),
    }


if __name__ == "__main__":
    main()
