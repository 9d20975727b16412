"""Held-out accuracy after one pass over the training rows, both sides from the same start."""

from collections.abc import Callable
from typing import Any

from race.processes import run_worker
from race.work import Work

ACCURACY_MARGIN = 0.01


def compare(work: Work, tell: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """Return accuracy, F1 and loss of the untrained base and of both sides, and the memory of their training."""
    settings = work.settings
    found: dict[str, dict[str, Any]] = {"base": measure(work, None)}
    tell(f"  base: accuracy {found['base']['accuracy']:.3f}")
    request = {"steps": settings.epoch_steps, "dtype": "bfloat16"}
    for side, manner in (("petune", {}), ("peft", {"variant": "same-order", "log_every_step": True})):
        output = str(work.folder / f"trained-{side}")
        run = run_worker(work, f"{side}_side", settings.threads, output=output, **request, **manner)
        found[side] = {
            **measure(work, output),
            "peak_memory": run["peak"],
            "last_losses": run["losses"][-10:],
        }
        tell(f"  {side}: accuracy {found[side]['accuracy']:.3f}")
    return found


def measure(work: Work, adapter: str | None) -> dict[str, Any]:
    """Return the metrics of one model on the held-out rows."""
    answer = run_worker(work, "evaluation", work.settings.threads, adapter=adapter)
    return dict(answer["metrics"])
