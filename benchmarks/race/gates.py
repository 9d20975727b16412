"""Correctness before speed: both sides must compute the same thing, and the right one."""

from dataclasses import asdict, dataclass
from typing import Any

from race.processes import run_worker
from race.work import Work

STEP_0_BAR = 2e-3
LOSSES_BAR = 1e-2
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True, slots=True)
class Gate:
    """One condition."""

    name: str
    value: float
    bar: float
    passed: bool

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Gates:
    """The conditions, and the losses they were judged by."""

    gates: tuple[Gate, ...]
    losses: dict[str, list[float]]
    """Losses of each step by ``side precision``; and, one long, of plain transformers before the first update."""

    @property
    def passed(self) -> bool:
        """Whether every condition holds."""
        return all(gate.passed for gate in self.gates)

    def to_dict(self) -> dict[str, Any]:
        """Return everything ready for JSON."""
        return {"gates": [gate.to_dict() for gate in self.gates], "losses": self.losses}


def check(work: Work) -> Gates:
    """Train both sides for the compared steps in both precisions, and judge.

    In float32 the two must agree to the bars. In bfloat16 any two correct programs drift apart, because the first
    updates of AdamW hang on the signs of rounded gradients; there each side is held against the float32 losses.
    """
    settings = work.settings
    runs: dict[str, dict[str, Any]] = {}
    losses: dict[str, list[float]] = {}
    for precision in PRECISIONS:
        plain = run_worker(work, "reference", settings.threads, dtype=precision)
        losses[f"transformers {precision}"] = [plain["loss"]]
        request = {"steps": settings.compared_steps, "dtype": precision}
        for side, manner in (("petune", {}), ("peft", {"variant": "same-order", "log_every_step": True})):
            name = f"{side} {precision}"
            output = str(work.folder / f"compared-{side}-{precision}")
            runs[name] = run_worker(work, f"{side}_side", settings.threads, output=output, **request, **manner)
            losses[name] = runs[name]["losses"]
    unchanged = {
        side: run_worker(work, "changes", settings.threads, adapter=str(work.folder / f"compared-{side}-bfloat16"))
        for side in ("petune", "peft")
    }
    return Gates(judge(work, runs, losses, unchanged), losses)


def judge(
    work: Work,
    runs: dict[str, dict[str, Any]],
    losses: dict[str, list[float]],
    unchanged: dict[str, dict[str, Any]],
) -> tuple[Gate, ...]:
    """Return the conditions, judged on what the runs reported."""
    planned = work.tokens_of_steps()[: work.settings.compared_steps]
    other_work = sum(run["tokens"] != planned for run in runs.values())
    gates = [Gate("runs that saw other rows than planned", other_work, 0, other_work == 0)]
    for precision in PRECISIONS:
        for side in ("petune", "peft"):
            distance = abs(losses[f"{side} {precision}"][0] - losses[f"transformers {precision}"][0])
            gates.append(_at_most(f"step-0 loss, {side} to plain transformers, {precision}", distance, STEP_0_BAR))
    for side in ("petune", "peft"):
        norms = [norm for name, run in runs.items() if name.startswith(side) for norm in run["grad_norms"]]
        gates.append(Gate(f"least gradient norm, {side}", min(norms), 0, min(norms) > 0))
        count = unchanged[side]["unchanged"]
        gates.append(Gate(f"adapter tensors left unchanged, {side}", count, 0, count == 0))
    apart = largest_distance(losses["petune float32"], losses["peft float32"])
    steps = work.settings.compared_steps
    gates.append(_at_most(f"first {steps} losses, petune to peft, float32", apart, LOSSES_BAR))
    own, theirs = (
        mean_distance(losses[f"{side} bfloat16"], losses["peft float32"]) for side in ("petune", "peft")
    )
    # Half as much again, because the drift of either side is one draw of rounding errors.
    allowed = 1.5 * theirs + LOSSES_BAR
    gates.append(_at_most(f"mean drift of {steps} losses from float32, petune bfloat16", own, allowed))
    return tuple(gates)


def largest_distance(ours: list[float], theirs: list[float]) -> float:
    """Return how far two series of losses are apart where they are farthest."""
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))


def mean_distance(ours: list[float], theirs: list[float]) -> float:
    """Return how far two series of losses are apart on average."""
    return sum(abs(a - b) for a, b in zip(ours, theirs, strict=True)) / len(ours)


def _at_most(name: str, value: float, bar: float) -> Gate:
    return Gate(name, value, bar, value <= bar)
