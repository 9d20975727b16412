"""Trains adapters in one process, some at once, others in turn, as `petune.train_many` does it for anybody."""

import time
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

import petune
from petune.data.reviews import prompt_format
from petune.training.events import Plan, Silent, Step
from race.clock import peak_memory
from race.task import Task

PRODUCTS = frozenset({"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"})


class Watch(Silent):
    """Takes the time of the steps of the last adapter, which end a round, behind the warm-up; may profile them.

    Args:
        warm_up: rounds before.
        steps: all rounds.
        profiled: whether to profile.
    """

    def __init__(self, warm_up: int, steps: int, *, profiled: bool) -> None:
        self.profile: Any = profile(activities=[ProfilerActivity.CPU]) if profiled else None
        self._warm_up, self._steps = warm_up, steps
        self.seconds = self.processor_seconds = 0.0

    def started(self, plan: Plan) -> None:
        """Begin, where nothing comes before."""
        if not self._warm_up:
            self._begin()

    def stepped(self, step: Step) -> None:
        """Begin behind the warm-up; end with the last step."""
        if step.step == self._warm_up:
            self._begin()
        elif step.step == self._steps:
            self.seconds += time.perf_counter()
            self.processor_seconds += time.process_time()
            if self.profile is not None:
                self.profile.__exit__(None, None, None)

    def _begin(self) -> None:
        if self.profile is not None:
            self.profile.__enter__()
        self.seconds -= time.perf_counter()
        self.processor_seconds -= time.process_time()

    def shares(self) -> dict[str, Any]:
        """Return the seconds of matrix products and of all else, and the operations that took longest."""
        events = [e for e in self.profile.key_averages() if e.self_cpu_time_total]
        products = sum(e.self_cpu_time_total for e in events if e.key in PRODUCTS) / 1e6
        events.sort(key=lambda event: -event.self_cpu_time_total)
        longest = {e.key: {"seconds": e.self_cpu_time_total / 1e6, "calls": e.count} for e in events[:12]}
        return {"seconds": self.seconds, "products": products, "longest": longest}


class Losses(Silent):
    """Notes the losses of one adapter."""

    def __init__(self) -> None:
        self.noted: list[float] = []

    def stepped(self, step: Step) -> None:
        """Note one."""
        self.noted.append(step.loss)


def main() -> None:
    """Train the ``groups`` of seeds one after the other on one base, the adapters of each group at once."""
    task = Task.from_command_line()
    base = petune.load_base("demo", dtype=task.arguments["dtype"], device="cpu")
    groups = [group(task, base, number, seeds) for number, seeds in enumerate(task.arguments["groups"])]
    task.answer({"groups": groups, "peak": peak_memory()})


def group(task: Task, base: petune.Base, number: int, seeds: list[int]) -> dict[str, Any]:
    """Train the adapters of ``seeds`` at once; return the time of their steps behind the warm-up, and their losses."""
    asked = task.arguments
    steps = asked["steps"] + asked["warm_up"]
    watch = Watch(asked["warm_up"], steps, profiled=asked.get("profiled", False))
    losses = {str(seed): Losses() for seed in seeds}
    listeners: dict[str, list[Silent]] = {name: [own] for name, own in losses.items()}
    listeners[str(seeds[-1])].append(watch)
    recipes = [recipe(task, Path(asked["output"]) / str(number), seed, steps) for seed in seeds]
    for outcome in petune.train_many(recipes, base=base, listeners=listeners):
        if outcome.result is None:
            raise outcome.error or AssertionError("a run without result or error")
        outcome.result.model.detach(outcome.name)
    found = {"seconds": watch.seconds, "processor_seconds": watch.processor_seconds}
    found["losses"] = [own.noted for own in losses.values()]
    return {**found, "profile": watch.shares()} if watch.profile is not None else found


def recipe(task: Task, folder: Path, seed: int, steps: int) -> dict[str, Any]:
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
        "output_dir": str(folder / str(seed)),
    }


if __name__ == "__main__":
    main()
