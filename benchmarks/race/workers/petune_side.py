"""Trains with petune, as `petune.train` does it for anybody."""

from pathlib import Path
from typing import Any

import petune
from petune.data.reviews import prompt_format
from petune.training.events import Plan, Silent, Step
from race.clock import StepClock
from race.task import Task


class Watch(Silent):
    """Follows the run: times, losses, norms, tokens.

    Args:
        device: where it runs.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.clock = StepClock(device)
        self.steps: list[Step] = []

    def started(self, plan: Plan) -> None:
        """Begin the clock."""
        self.clock.begin()

    def stepped(self, step: Step) -> None:
        """Note a step."""
        self.clock.step()
        self.steps.append(step)


def main() -> None:
    """Train ``steps`` steps, the base in ``dtype``; keep the adapter in ``output``."""
    task = Task.from_command_line()
    watch = Watch()
    result = petune.train(recipe(task), listeners=[watch])
    task.answer(
        {
            **watch.clock.report(),
            "losses": [step.loss for step in watch.steps],
            "grad_norms": [step.grad_norm for step in watch.steps],
            "tokens": [step.tokens for step in watch.steps],
            "label_tokens": result.train_report.label_tokens,
        }
    )


def recipe(task: Task) -> dict[str, Any]:
    """Return the recipe; the adapter starts from the tensors of ``work.start``, which the same seed makes."""
    settings, steps = task.work.settings, int(task.arguments["steps"])
    return {
        **prompt_format(),
        "model": str(task.work.model),
        "dtype": task.arguments["dtype"],
        "device": "cpu",
        "data": str(task.work.train_text),
        "method": "lora",
        "r": settings.r,
        "lora_alpha": settings.lora_alpha,
        "lora_dropout": 0.0,
        "target_modules": list(settings.target_modules),
        "per_device_train_batch_size": settings.rows_per_step,
        "max_steps": steps,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": settings.warm_up(steps),
        "max_grad_norm": settings.max_grad_norm,
        "seed": settings.seed,
        "output_dir": str(Path(task.arguments["output"])),
    }


if __name__ == "__main__":
    main()
