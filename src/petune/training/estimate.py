"""What a run will need, told before it begins, and held against what it did need."""

from dataclasses import dataclass
from typing import Any, final

from petune.training.byte_sizes import shown_bytes

TOLERANCE = 0.15
"""How far an estimate may be off before that is worth a warning."""
_LONG = 60.0
"""Seconds below which a run says little of an estimate: chance and what happens but once weigh too much."""


@final
@dataclass(frozen=True, slots=True)
class Estimate:
    """Time and memory of a run, from batches of it that were gone through before it began."""

    seconds: float
    """Time of all its steps, evaluations and checkpoints; less where it stops early."""

    memory: int
    """Most bytes held: by the process on CPU, by tensors on CUDA."""

    model: int
    """Bytes held before the first step: the base, what is learned, and on CPU Python and its libraries."""

    kept: int
    """Bytes that the backward pass of the largest batch needs, counted tensor by tensor."""

    steps: int
    """Steps that the time is for."""

    recomputed: str = ""
    """What is computed again in backward passes to save memory, in words; empty for nothing."""

    most_tokens: int | None = None
    """Tokens to which batches were cut to save memory; None where they were not."""

    @property
    def above_model(self) -> int:
        """Most bytes held beyond those before the first step."""
        return max(0, self.memory - self.model)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {
            "seconds": round(self.seconds, 1),
            "steps": self.steps,
            "memory_bytes": self.memory,
            "memory_before_the_first_step_bytes": self.model,
            "kept_for_backward_bytes": self.kept,
            "recomputed": self.recomputed,
            "most_tokens_per_batch": self.most_tokens,
        }

    def lines(self) -> list[str]:
        """Return it in words, with what was done to save memory."""
        said = [
            f"estimate: about {shown_seconds(self.seconds)} for {self.steps:,} steps, {shown_bytes(self.memory)} at"
            f" most ({shown_bytes(self.above_model)} above the loaded model, {shown_bytes(self.kept)} of them"
            " activations)"
        ]
        ways = [f"{self.recomputed} computed again"] if self.recomputed else []
        ways += [f"batches of at most {self.most_tokens:,} tokens"] if self.most_tokens is not None else []
        if ways:
            said.append(f"memory budget: {', '.join(ways)}")
        return said

    def against(self, *, seconds: float, memory: int, steps: int) -> list[str]:
        """Return, in words, how it compares with what was measured; of a long run, a warning for what is far off.

        Args:
            seconds: time of the steps.
            memory: most bytes held.
            steps: how many steps there were; time is compared where there were as many as expected.
        """
        found: list[tuple[str, float, float, str, str]] = [
            ("memory", self.memory, memory, shown_bytes(self.memory), shown_bytes(memory)),
        ]
        if steps == self.steps:
            found.insert(0, ("time", self.seconds, seconds, shown_seconds(self.seconds), shown_seconds(seconds)))
        pairs = "; ".join(f"{name} {guess}, measured {real}" for name, _, _, guess, real in found)
        lines = [f"estimated {pairs}"]
        for name, guess, real, _, _ in found if seconds >= _LONG else ():
            error = guess / real - 1 if real else 0.0
            if abs(error) > TOLERANCE:
                side = "high" if error > 0 else "low"
                lines.append(f"warning: the estimate of {name} was {abs(error):.0%} too {side}")
        return lines


def shown_seconds(seconds: float) -> str:
    """Return a time as one says it: ``0.4 s``, ``42 s``, ``7 min``, ``3 h 20 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
