"""Correctness before speed: both sides must compute the same thing, and the right one."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from race.processes import run_worker
from race.settings import Settings
from race.work import Work

STEP_0_BAR = 2e-3
LOSSES_BAR = 1e-2
# The drift of either side is one draw of rounding errors; half as much again is no sign of a mistake.
DRIFT_ALLOWANCE = 1.5
PRECISIONS = ("float32", "bfloat16")
SIDES = ("petune", "peft")


@dataclass(frozen=True, slots=True)
class Gate:
    """One condition: what each side reached, and the most (or, where ``floor``, the least) petune may reach."""

    name: str
    petune: float
    peft: float | None
    bar: float | None
    floor: bool = False

    @property
    def passed(self) -> bool | None:
        """Whether it holds; None where nothing is asked, only told."""
        if self.bar is None:
            return None
        return self.petune > self.bar if self.floor else self.petune <= self.bar

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return {**asdict(self), "passed": self.passed}


@dataclass(frozen=True, slots=True)
class Compared:
    """What the compared runs reported.

    Attributes:
        plain: loss of plain transformers before the first update, by precision.
        runs: the reports of the two trainers by ``side precision``.
        unchanged: tensors of the adapter that training left as they were, by side.
    """

    plain: Mapping[str, float]
    runs: Mapping[str, Mapping[str, Any]]
    unchanged: Mapping[str, int]

    def losses(self, side: str, precision: str) -> list[float]:
        """Return the loss of each step."""
        return list(self.runs[f"{side} {precision}"]["losses"])

    def to_dict(self) -> dict[str, Any]:
        """Return the losses ready for JSON."""
        return {"plain transformers": dict(self.plain), **{name: run["losses"] for name, run in self.runs.items()}}


def compare(work: Work) -> Compared:
    """Train both sides for the compared steps, in float32 and in bfloat16."""
    settings, plain, runs, unchanged = work.settings, {}, {}, {}
    for precision in PRECISIONS:
        plain[precision] = run_worker(work, "reference", settings.threads, dtype=precision)["loss"]
        request = {"steps": settings.compared_steps, "dtype": precision}
        for side, manner in (("petune", {}), ("peft", {"variant": "same-order", "log_every_step": True})):
            output = str(work.folder / f"compared-{side}-{precision}")
            name = f"{side} {precision}"
            runs[name] = run_worker(work, f"{side}_side", settings.threads, output=output, **request, **manner)
            unchanged[side] = run_worker(work, "changes", settings.threads, adapter=output)["unchanged"]
    return Compared(plain, runs, unchanged)


def judge(compared: Compared, planned: Sequence[int], settings: Settings) -> list[Gate]:
    """Return the conditions.

    In float32 the bars are absolute: against plain transformers and against the peer. In bfloat16 every program's
    losses leave the float32 ones, its very first by the rounding of the activations, later ones because the first
    updates of AdamW hang on the signs of rounded gradients. How far a single loss is off is chance, so it is told and
    not judged; over the first steps petune may not drift more than the peer does.

    Args:
        compared: what was measured.
        planned: tokens of each step of the plan.
        settings: the size of the race.
    """
    steps = f"first {settings.compared_steps} losses"
    wide, small = ({side: compared.losses(side, precision) for side in SIDES} for precision in PRECISIONS)
    reference = compared.plain["float32"]
    first_wide, first_small = ({side: abs(losses[side][0] - reference) for side in SIDES} for losses in (wide, small))
    drift = {side: mean_distance(small[side], wide["peft"]) for side in SIDES}
    strangers = {side: _strange_steps(compared, side, planned[: settings.compared_steps]) for side in SIDES}
    norms = {side: _least_norm(compared, side) for side in SIDES}
    return [
        Gate("steps whose tokens are not the planned ones", strangers["petune"], strangers["peft"], 0),
        Gate("step-0 loss to the reference, float32", first_wide["petune"], first_wide["peft"], STEP_0_BAR),
        Gate(f"{steps}, largest distance to PEFT, float32", largest_distance(**wide), None, LOSSES_BAR),
        Gate("step-0 loss to the float32 reference, bfloat16", first_small["petune"], first_small["peft"], None),
        Gate(
            f"{steps}, mean drift from float32, bfloat16",
            drift["petune"],
            drift["peft"],
            DRIFT_ALLOWANCE * drift["peft"] + LOSSES_BAR,
        ),
        Gate(f"{steps}, largest distance to PEFT, bfloat16", largest_distance(**small), None, None),
        Gate("least gradient norm", norms["petune"], norms["peft"], 0, floor=True),
        Gate("adapter tensors left unchanged", compared.unchanged["petune"], compared.unchanged["peft"], 0),
    ]


def largest_distance(petune: Sequence[float], peft: Sequence[float]) -> float:
    """Return how far two series of losses are apart where they are farthest."""
    return max(abs(a - b) for a, b in zip(petune, peft, strict=True))


def mean_distance(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return how far two series of losses are apart on average."""
    return sum(abs(a - b) for a, b in zip(ours, theirs, strict=True)) / len(ours)


def _strange_steps(compared: Compared, side: str, planned: Sequence[int]) -> int:
    runs = [compared.runs[f"{side} {precision}"]["tokens"] for precision in PRECISIONS]
    return sum(seen != wanted for run in runs for seen, wanted in zip(run, planned, strict=True))


def _least_norm(compared: Compared, side: str) -> float:
    return min(float(min(compared.runs[f"{side} {precision}"]["grad_norms"])) for precision in PRECISIONS)
