"""What is raced: the size of the work, and the settings that both sides train with."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from race.bases import DEMO

QUICK: dict[str, Any] = {
    "rows": 208,
    "test_rows": 60,
    "timed_steps": 4,
    "warm_up_steps": 2,
    "repeats": 1,
    "compared_steps": 6,
    "peers": ("same-order",),
}
"""The sizes of the edition that takes minutes; too small for its timings and its accuracy to be judged."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One race. Sizes come from the command line, the rest is fixed."""

    rows: int = 2000
    """Training reviews; a multiple of the rows of a step, so that every step of an epoch is full."""
    test_rows: int = 500
    """Held-out reviews."""
    timed_steps: int = 12
    """Optimiser steps of one timing."""
    warm_up_steps: int = 3
    """Steps before the timing begins."""
    repeats: int = 3
    """Timings of each side."""
    threads: int = 1
    """Threads of the matrix products."""
    compared_steps: int = 20
    """Steps whose losses are compared."""
    peers: tuple[str, ...] = ("same-order", "default", "tuned")
    """Manners of running the other trainer that are timed."""
    rows_per_step: int = 16
    """Rows of one optimiser step."""
    r: int = 8
    """Rank of LoRA."""
    lora_alpha: int = 16
    """Numerator of LoRA's scale."""
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    """Adapted linears."""
    learning_rate: float = 4e-4
    """Peak rate of AdamW; it falls linearly to zero."""
    warm_up_ratio: float = 0.03
    """Share of the steps over which the rate rises."""
    max_grad_norm: float = 1.0
    """Norm to which gradients are clipped."""
    seed: int = 42
    """Seed of the adapter's start and of the order of the rows."""
    data: str | None = None
    """File of training rows (JSON Lines) in place of the movie reviews."""
    test_data: str | None = None
    """File of held-out rows that goes with it."""
    device: str = "cpu"
    """Where every side trains: cpu or cuda."""
    base: str = DEMO
    """What is trained on: a name of :mod:`race.bases`."""
    dtype: str = "bfloat16"
    """Precision of the base in what is timed."""
    measured_every: int = 10
    """Steps between measurements of the held-out loss, where a run ends once that is low enough."""

    @property
    def epoch_steps(self) -> int:
        """Optimiser steps of one pass over the rows."""
        return self.rows // self.rows_per_step

    @property
    def planned_steps(self) -> int:
        """Steps of the longest run of the race."""
        return max(self.epoch_steps, self.compared_steps, self.warm_up_steps + self.timed_steps)

    def warm_up(self, steps: int) -> int:
        """Return over how many of ``steps`` the rate rises."""
        return round(self.warm_up_ratio * steps)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings ready for JSON."""
        return asdict(self)

    def write(self, path: Path) -> None:
        """Write the settings for the workers."""
        path.write_text(json.dumps(self.to_dict()), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return what :meth:`write` wrote."""
        content = json.loads(path.read_text(encoding="utf-8"))
        lists = {name: tuple(value) for name, value in content.items() if isinstance(value, list)}
        return cls(**{**content, **lists})
