"""Who enters a contest: petune and each peer in each manner, and whether they compute the same."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from race.contests import CONTESTS
from race.gates import LOSSES_BAR, STEP_0_BAR, largest_distance
from race.peers import PEERS
from race.processes import WorkerError, run_worker
from race.work import Work

OURS = "petune"


@dataclass(frozen=True, slots=True)
class Entry:
    """One program in one manner."""

    side: str
    """``petune``, or the name of a peer."""
    manner: str = "default"

    @property
    def name(self) -> str:
        """What results are kept under."""
        return OURS if self == Entry(OURS) else f"{self.side} {self.manner}"

    @property
    def grouped(self) -> bool:
        """Whether its steps hold petune's rows, of like lengths together; the default manner shuffles as it comes."""
        return self.side == OURS or self.manner != "default"

    @property
    def title(self) -> str:
        """How the table names it."""
        title = OURS if self.side == OURS else PEERS[self.side].title
        return title if self == Entry(OURS) else f"{title}, {self.manner}"

    def run(self, work: Work, contest: str, python: Path | None, **request: Any) -> dict[str, Any]:
        """Train in a fresh process and return what it reports.

        Raises:
            WorkerError: it failed.
        """
        worker = "petune_contest" if self.side == OURS else PEERS[self.side].worker
        output = str(work.folder / f"out-{self.name.replace(' ', '-')}-{len(list(work.folder.glob('out-*')))}")
        Path(output).mkdir()
        asked = {"contest": contest, "manner": self.manner, "output": output, **request}
        return run_worker(work, worker, work.settings.threads, python=python, **asked)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an entry computes what the contest asks for; where not, ``reason`` says why."""

    name: str
    step_0_distance: float | None = None
    """Of its first loss to plain transformers, in float32."""
    losses_distance: float | None = None
    """Of its first losses to petune's, where they are farthest, in float32."""
    reason: str | None = None

    @property
    def passed(self) -> bool:
        """Whether it does."""
        return self.reason is None

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return {**asdict(self), "passed": self.passed}


def verdicts(
    work: Work, contest: str, entries: Sequence[Entry], pythons: Mapping[str, Path | None]
) -> dict[str, Verdict]:
    """Run the first steps of every entry in float32 and judge them, petune first.

    Args:
        work: the contest's work.
        contest: its name.
        entries: who enters.
        pythons: the interpreter of each side; None for this one.
    """
    threads, steps = work.settings.threads, work.settings.compared_steps
    request = {"steps": steps, "dtype": "float32", "log_every_step": True, "planned": True}
    request |= {"share_of_rate": CONTESTS[contest].compared_at}
    reference = run_worker(work, "contest_reference", threads, contest=contest)["loss"]
    found: dict[str, Verdict] = {}
    ours: list[float] = []
    for entry in entries:
        try:
            report = entry.run(work, contest, pythons[entry.side], **request)
        except WorkerError as error:
            found[entry.name] = Verdict(entry.name, reason=f"failed: {last_line(error)}")
            continue
        ours = ours or report["losses"]
        found[entry.name] = judge(entry.name, report, reference, ours, work.tokens_of_steps()[:steps])
    return found


def judge(
    name: str, report: Mapping[str, Any], reference: float, ours: Sequence[float], planned: Sequence[int]
) -> Verdict:
    """Return the verdict on a report of the first steps.

    Args:
        name: the entry's.
        report: its losses, gradient norms and tokens.
        reference: the first loss by plain transformers.
        ours: petune's losses.
        planned: tokens of each step.
    """
    first, apart = abs(report["losses"][0] - reference), largest_distance(report["losses"], ours)
    reasons = [
        (list(report["tokens"]) != list(planned), "trains on other tokens"),
        (not first <= STEP_0_BAR, f"its first loss is off by {first:.2g}"),
        (not apart <= LOSSES_BAR, f"its losses leave petune's by {apart:.2g}"),
        (not min(report["grad_norms"]) > 0, "has a gradient of zero"),
    ]
    return Verdict(name, first, apart, next((reason for missed, reason in reasons if missed), None))


def last_line(error: Exception) -> str:
    """Return what a failed process said last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
