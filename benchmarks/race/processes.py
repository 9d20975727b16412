"""Running one worker in a fresh process."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from race.work import Work

BENCHMARKS = Path(__file__).resolve().parents[1]
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class WorkerError(RuntimeError):
    """A worker failed; the message ends with what it said."""


def run_worker(work: Work, name: str, threads: int, *, python: Path | None = None, **arguments: Any) -> dict[str, Any]:
    """Run ``race.workers.<name>`` in a fresh process and return what it reports.

    Args:
        work: the folder of the work.
        name: module of the worker.
        threads: threads of its matrix products.
        python: the interpreter of another environment, which then sees nothing of this one; by default this one.
        arguments: what it is asked to do; JSON values.

    Raises:
        WorkerError: it failed.
    """
    with tempfile.TemporaryDirectory(dir=work.folder) as folder:
        report = Path(folder) / "report.json"
        task = json.dumps({"work": str(work.folder), "report": str(report), **arguments})
        done = subprocess.run(
            [str(python or sys.executable), "-m", f"race.workers.{name}", task],
            env=_environment(threads, alone=python is not None),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise WorkerError(f"{name} {arguments} failed ({done.returncode}): {done.stderr[-4000:]}")
        found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        return found


def _environment(threads: int, *, alone: bool) -> dict[str, str]:
    """Return this process's environment with the threads set, and the race (``alone``: nothing else) importable."""
    paths = [str(BENCHMARKS), *filter(None, [None if alone else os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        **dict.fromkeys(THREAD_VARIABLES, str(threads)),
        "PYTHONPATH": os.pathsep.join(paths),
        "TOKENIZERS_PARALLELISM": "false",
    }
