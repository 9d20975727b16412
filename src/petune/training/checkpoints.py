"""Training checkpoints: everything a run needs to go on as if it had never stopped.

A checkpoint is a folder ``checkpoint-<step>`` of safetensors and JSON, never a pickle:

- ``masters.safetensors``: the adapter's fp32 tensors
- ``optimizer.safetensors``: AdamW's moments and step counts
- ``random.safetensors``: the state of the random generators
- ``state.json``: step, schedule, best evaluation, history
- ``checkpoint.json``: SHA-256 of the other files, written last

It is filled under another name and renamed when it is complete and durable; the oldest go only after that.
"""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from petune.checkpoint.durable import explained, new_folder
from petune.checkpoint.manifest import file_digest
from petune.errors import CheckpointError

MASTERS = "masters.safetensors"
OPTIMIZER = "optimizer.safetensors"
RANDOM = "random.safetensors"
STATE = "state.json"
DIGESTS = "checkpoint.json"
_NAME = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The contents of one checkpoint."""

    masters: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    random: dict[str, Tensor]
    state: dict[str, Any]


def save(output: Path, step: int, checkpoint: Checkpoint) -> Path:
    """Write ``checkpoint`` as ``output/checkpoint-<step>`` and return the folder."""
    folder = output / f"checkpoint-{step}"
    with new_folder(folder) as temporary:
        for name, tensors in (
            (MASTERS, checkpoint.masters),
            (OPTIMIZER, checkpoint.optimizer),
            (RANDOM, checkpoint.random),
        ):
            save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, temporary / name)
        (temporary / STATE).write_text(json.dumps(checkpoint.state, indent=1), encoding="utf-8")
        digests = {name: file_digest(temporary / name) for name in (MASTERS, OPTIMIZER, RANDOM, STATE)}
        (temporary / DIGESTS).write_text(json.dumps(digests, indent=1), encoding="utf-8")
    return folder


def load(folder: Path) -> Checkpoint:
    """Return the checkpoint in ``folder``, after every file was found as it was written.

    Raises:
        CheckpointError: a file is missing or changed.
    """
    try:
        digests: Mapping[str, str] = json.loads((folder / DIGESTS).read_text(encoding="utf-8"))
        for name in (MASTERS, OPTIMIZER, RANDOM, STATE):
            actual = file_digest(folder / name)
            if actual != digests[name]:
                raise CheckpointError(
                    f"{folder / name} is damaged (SHA-256 {actual[:12]}..., expected {digests[name][:12]}...)"
                )
        return Checkpoint(
            load_file(folder / MASTERS),
            load_file(folder / OPTIMIZER),
            load_file(folder / RANDOM),
            json.loads((folder / STATE).read_text(encoding="utf-8")),
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{folder} is not a complete checkpoint ({error})") from error


def steps_in(output: Path) -> list[int]:
    """Return the steps that ``output`` holds checkpoints of, in order."""
    if not output.is_dir():
        return []
    found = (_NAME.fullmatch(path.name) for path in output.iterdir() if path.is_dir())
    return sorted(int(match[1]) for match in found if match)


def newest(output: Path) -> tuple[int, Checkpoint]:
    """Return the newest sound checkpoint of ``output`` and its step.

    Raises:
        CheckpointError: there is none, or the newest is damaged; a sound older one is named, never taken in silence.
    """
    steps = steps_in(output)
    if not steps:
        raise CheckpointError(
            f"{output} holds no checkpoint to resume from; start anew with --overwrite, or give the right --output-dir"
        )
    try:
        return steps[-1], load(output / f"checkpoint-{steps[-1]}")
    except CheckpointError as error:
        for step in reversed(steps[:-1]):
            older = output / f"checkpoint-{step}"
            if _sound(older):
                raise CheckpointError(
                    f"{error}; {older} is sound: remove {output / f'checkpoint-{steps[-1]}'} and --resume from it"
                ) from error
        raise CheckpointError(f"{error}; no older one is sound: start anew with --overwrite") from error


def _sound(folder: Path) -> bool:
    try:
        load(folder)
    except CheckpointError:
        return False
    return True


def rotate(output: Path, keep: int, best: int | None) -> None:
    """Remove all but the ``keep`` newest checkpoints; the one of step ``best`` stays besides."""
    for step in steps_in(output)[:-keep]:
        if step != best:
            with explained(output):
                shutil.rmtree(output / f"checkpoint-{step}")


def random_state() -> dict[str, Tensor]:
    """Return the state of torch's generators: of the CPU, and of each CUDA device."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state |= {f"cuda:{i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
    return state


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Bring back what :func:`random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):  # which may be others than when the state was kept
            if (own := state.get(f"cuda:{index}")) is not None:
                torch.cuda.set_rng_state(own, index)
