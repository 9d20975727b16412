"""Trials on a Ray cluster: as many at once as it holds, each in a worker of its own that keeps its base."""

import logging
import os
import signal
import sys
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, final

import ray
from ray.exceptions import OutOfMemoryError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from petune.backbone.precision import pick_device
from petune.comparison.assignment import Assignments, threads_of
from petune.comparison.attempts import Attempts
from petune.comparison.folder import Folder
from petune.comparison.message import Message
from petune.comparison.ray_worker import Premises, RayWorker
from petune.comparison.recipe import CompareOptions
from petune.comparison.record import Status, Trial
from petune.comparison.unit import Unit
from petune.comparison.watching import Watcher
from petune.errors import ResourceError
from petune.training.byte_sizes import read_bytes, shown_bytes

_PATIENCE = 60.0
"""Seconds that trainings have to write their checkpoints, once they were asked to stop."""
_STARTING = 10.0
"""Seconds to wait for the number of a worker's process; one that has not started has nothing to keep."""


@dataclass(frozen=True, slots=True)
class _Worker:
    """An actor, and the promise to say where its process is."""

    actor: Any
    whereabouts: Any


@final
class RayEngine:
    """Runs trials on a Ray cluster; records are written here, everything else by the workers, to a disk they share.

    Args:
        options: of the comparison.
        assignments: of its jobs.
        folder: the comparison's.
        watcher: told of what happens.

    Raises:
        ResourceError: the cluster cannot be reached, or none of its nodes can hold a trial.
    """

    tracks_at_once = sys.maxsize

    def __init__(self, options: CompareOptions, assignments: Assignments, folder: Folder, watcher: Watcher) -> None:
        self._assignments = assignments
        self._watcher = watcher
        self._attempts = Attempts(options.attempts_again)
        self._needs = needs_of(options)
        self._idle: list[_Worker] = []
        self._running: dict[Any, tuple[_Worker, Unit]] = {}
        self._connected = connect(options.ray_address)
        try:
            self.trials_at_once = self._room()
        except ResourceError:
            self._disconnect()
            raise
        self._token = NamedTemporaryFile(dir=folder.path, prefix=".ray-")  # noqa: SIM115 - it lives as long as this does
        self._premises = Premises(
            cwd=str(Path.cwd()),
            folder=str(folder.path),
            token=str(Path(self._token.name).absolute()),
            bases=tuple(model for model in options.models if Path(model).exists()),
        )

    def run(self, units: Sequence[Unit]) -> Generator[Trial]:
        """Yield the record of each trial as it ends."""
        waiting = deque(units)
        while waiting or self._running:
            self.trials_at_once = self._room()  # nodes may have come
            while waiting and len(self._running) < self.trials_at_once:
                self._begin(waiting.popleft())
            done, _ = ray.wait(list(self._running))
            worker, unit = self._running.pop(done[0])
            try:
                said = [Message.model_validate_json(line) for line in ray.get(done[0])]
            except RayError as error:
                again, given_up = self._lost(worker, unit, error)
                waiting.extendleft(reversed(again))
                yield from given_up
                continue
            self._idle.append(worker)
            ended = [message.ended for message in said if message.ended is not None]
            yield from ended
            failure = next((message.failure for message in said if message.failure is not None), None)
            if failure is None:
                continue
            if failure.stopped_by is None:
                raise failure.error()
            # It was stopped, and this process was not: its trials are begun again elsewhere.
            self._idle.remove(worker)
            ray.kill(worker.actor)
            again, given_up = self._attempts.after_loss(
                unit, ended={trial.id for trial in ended}, reason=f"its worker was stopped by {failure.stopped_by}"
            )
            waiting.extendleft(reversed(again))
            yield from given_up

    def close(self) -> None:
        """Stop what runs, a training with a checkpoint, and let go of the workers and of the cluster."""
        try:
            asked = [_asked_to_stop(worker) for worker, _ in self._running.values()]
            if self._running:
                ray.wait(list(self._running), num_returns=len(self._running), timeout=_PATIENCE if any(asked) else 0)
        finally:
            for worker in (*self._idle, *(worker for worker, _ in self._running.values())):
                ray.kill(worker.actor)
            self._idle.clear()
            self._running.clear()
            self._token.close()
            self._disconnect()

    def _disconnect(self) -> None:
        if self._connected:
            ray.shutdown()
            self._connected = False

    def _begin(self, unit: Unit) -> None:
        worker = self._idle.pop() if self._idle else self._hired()
        for job in unit.jobs:
            self._watcher.began(job)
        self._running[worker.actor.run.remote(self._assignments.of(unit).model_dump_json())] = (worker, unit)

    def _hired(self) -> _Worker:
        actor = ray.remote(RayWorker).options(**self._needs).remote(self._premises)
        return _Worker(actor, actor.whereabouts.remote())

    def _lost(self, worker: _Worker, unit: Unit, error: RayError) -> tuple[list[Unit], list[Trial]]:
        ray.kill(worker.actor)
        if "No module named" in str(error):
            raise ResourceError(
                f"a node of the Ray cluster lacks a package that this machine has ({_last_line(error)}); install the"
                " same packages on every node"
            ) from error
        status, reason = _what_happened(error)
        return self._attempts.after_loss(unit, ended=(), reason=reason, status=status)

    def _room(self) -> int:
        """Return how many trials the cluster holds at once.

        Raises:
            ResourceError: none.
        """
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        room = sum(room_on(node, self._needs) for node in nodes)
        if not room:
            there = "; ".join(dict.fromkeys(_in_words(_as_needs(node)) for node in nodes))
            raise ResourceError(
                f"no node of the Ray cluster can hold a trial, which is to have {_in_words(self._needs)}; there are"
                f" nodes with {there}: ask for less with --cpus-per-trial, --gpus-per-trial or --memory-per-trial"
            )
        return room


def needs_of(options: CompareOptions) -> dict[str, float]:
    """Return what is set aside for each trial, under Ray's names."""
    gpus = options.gpus_per_trial
    if gpus is None:
        gpus = 1.0 if pick_device(options.device).type == "cuda" else 0.0
    return {
        "num_cpus": threads_of(options),
        "num_gpus": gpus,
        "memory": read_bytes(options.memory_per_trial) if options.memory_per_trial else 0,
    }


def room_on(node: dict[str, float], needs: dict[str, float]) -> int:
    """Return how many trials a node with these resources holds at once."""
    there = _as_needs(node)
    return min(int(there[name] / amount) for name, amount in needs.items() if amount)


def connect(address: str | None) -> bool:
    """Connect to a cluster, which may be started for it; return whether the connection is ours to end.

    Raises:
        ResourceError: none answers at ``address``.
    """
    if ray.is_initialized():
        return False
    try:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = address or "the address in RAY_ADDRESS"
        raise ResourceError(
            f"no Ray cluster answers at {where} ({' '.join(str(error).split())}); start one with `ray start --head`, or"
            " give --ray-address local to have one for this comparison alone"
        ) from error
    return True


def _as_needs(node: dict[str, float]) -> dict[str, float]:
    """Return a node's resources under the names that a trial's needs have."""
    return {"num_cpus": node.get("CPU", 0), "num_gpus": node.get("GPU", 0), "memory": node.get("memory", 0)}


def _in_words(needs: dict[str, float]) -> str:
    words = [f"{needs['num_cpus']:g} CPUs", f"{needs['num_gpus']:g} GPUs"]
    return ", ".join([*words, shown_bytes(int(needs["memory"]))] if needs["memory"] else words)


def _what_happened(error: RayError) -> tuple[Status, str]:
    """Return how a trial ended whose worker was lost, and why, in a line."""
    said = " ".join(str(error).split())
    if isinstance(error, OutOfMemoryError) or "running low on memory" in said:
        return "out_of_memory", "its node ran out of memory, and Ray ended its worker"
    return "failed", f"its worker was lost: {type(error).__name__}: {said}"[:400]


def _last_line(error: RayError) -> str:
    return str(error).strip().rpartition("\n")[2].strip()


def _asked_to_stop(worker: _Worker) -> bool:
    """Ask a worker's process to stop, from its own node; return whether there is one."""

    def stop(pid: int) -> None:
        os.kill(pid, signal.SIGTERM)

    try:
        pid, node = ray.get(worker.whereabouts, timeout=_STARTING)
    except RayError:
        return False
    there = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    ray.remote(stop).options(num_cpus=0, scheduling_strategy=there).remote(pid)
    return True
