"""What the untouched lower blocks make of each row, kept on disk: written in the first epoch, used from then on.

Where an adapter touches upper blocks alone, the blocks below them compute the same at every epoch. See
:mod:`petune.sites.trunk` for how they are left out, and :mod:`petune.training.hidden_states` for the file.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from petune.adapted_model import AdaptedModel
from petune.backbone.arguments import without_cache
from petune.backbone.cache import cache_folder
from petune.backbone.fingerprint import structural
from petune.data.batching import answer_starts, collate
from petune.data.encoding import Encoded
from petune.sites.trunk import Trunk, find_trunk
from petune.training.adapter_run import AdapterRun
from petune.training.byte_sizes import read_bytes, shown_bytes
from petune.training.hidden_states import HiddenStates, make_room, remove_unfinished, rows_key
from petune.training.options import TrainingOptions

logger = logging.getLogger("petune")

OFF = "off"
_PACKAGES = ("petune", "torch", "transformers")

Around = Callable[[Sequence[Encoded]], AbstractContextManager[None]]
"""Takes the rows of a batch; returns what to run them in."""


def no_trunk_cache(rows: Sequence[Encoded]) -> AbstractContextManager[None]:
    """Run the whole model."""
    return nullcontext()


@final
class TrunkCache:
    """The hidden states that enter the lowest touched block, by row.

    Args:
        trunk: the blocks below it.
        states: where they are kept.
        device: where the model lies.
    """

    def __init__(self, trunk: Trunk, states: HiddenStates, device: torch.device) -> None:
        self._trunk = trunk
        self._states = states
        self._device = device

    @contextmanager
    def over(self, rows: Sequence[Encoded]) -> Iterator[None]:
        """Run the model on the batch of ``rows`` inside the block: without the trunk where what it gives is known."""
        if self._states.knows(rows):
            with self._trunk.left_out(self._states.batch(rows, self._device)):
                yield
            return
        with self._trunk.watched() as seen:
            yield
        if seen:  # a second one is of the backward pass, where blocks are computed again
            self._states.add(rows, seen[0])

    def close(self, *, keep: bool) -> None:
        """Let go of the file, and remove it unless it is to be kept."""
        self._states.close(keep=keep)


@contextmanager
def trunk_cache(model: AdaptedModel, runs: Sequence[AdapterRun], options: TrainingOptions) -> Iterator[Around]:
    """Yield what to run each batch of rows in: a cache of the trunk, or nothing where there is none to be had.

    Why there is none although one was asked for is said in a warning.

    Args:
        model: the base with the adapters attached.
        runs: the adapters in training, with their rows.
        options: how large the cache may be, and whether it is kept.
    """
    opened = None if options.trunk_cache == OFF else _open(model, runs, options)
    if isinstance(opened, str):
        logger.warning("no trunk cache, the run goes on without: %s", opened)
    if not isinstance(opened, TrunkCache):
        yield no_trunk_cache
        return
    try:
        yield opened.over
    finally:
        opened.close(keep=options.keep_trunk_cache)


def _open(model: AdaptedModel, runs: Sequence[AdapterRun], options: TrainingOptions) -> TrunkCache | str:
    """Return a cache for all rows of ``runs``, or why there is none."""
    rows = [row for run in runs for row in run.rows]
    slots = [item for run in runs for item in run.adapter.slots.items()]
    if len({run.adapter.virtual_tokens for run in runs}) > 1:
        return "the adapters move the positions of the tokens differently"
    if len({row.task for row in rows}) > 1:
        return "the rows are of several tasks"
    model.train()
    trunk = find_trunk(model.model, model.base.structure, slots, lambda others: _output(model, runs[0], others))
    if isinstance(trunk, str):
        return trunk
    size, allowed = HiddenStates.size(rows, trunk.width, trunk.dtype), read_bytes(options.trunk_cache)
    where = cache_folder() / "trunk" if options.trunk_cache_dir is None else Path(options.trunk_cache_dir)
    folder = where / _digest(model, trunk, rows, runs[0].adapter.virtual_tokens)
    if size > allowed:
        return f"it needs {shown_bytes(size)}, and --trunk-cache allows {shown_bytes(allowed)}"
    used_again = any(run.schedule.epoch_at(run.total_steps) > 1 for run in runs)
    if not (used_again or options.keep_trunk_cache or HiddenStates.are_kept(folder)):
        return "no row comes twice, and --keep-trunk-cache does not keep it for another run"
    try:
        remove_unfinished(where, besides=folder)
        if options.keep_trunk_cache:
            make_room(where, besides=folder, allowed=allowed - size)
        states = HiddenStates(folder, rows, trunk.width, trunk.dtype)
    except BlockingIOError:
        return f"another run is using the one for these rows ({folder})"
    except OSError as error:
        return f"{folder} cannot be written ({error.strerror})"
    blocks = f"{trunk.height} of {model.base.structure.num_blocks} blocks"
    logger.info("trunk cache: what %s make of the rows, %s, in %s", blocks, shown_bytes(size), folder)
    return TrunkCache(trunk, states, model.device)


def _output(model: AdaptedModel, run: AdapterRun, others: int) -> tuple[Tensor, Tensor]:
    """Return what the model makes of a few rows of ``run``, or of others, as in training, and where tokens stand."""
    rows = _probed(run.rows, others)
    pad = model.tokenizer.pad_token_id
    assert isinstance(pad, int)
    batch = collate(rows, pad_token_id=pad, device=model.device)
    del batch["labels"]
    with model.route([run.adapter.name] * len(rows)), model.answers_from(answer_starts(rows)):
        output: Tensor = model.model(**batch, **without_cache(model.model))[0]
    return output, batch["attention_mask"].bool()


def _probed(rows: Sequence[Encoded], others: int) -> list[Encoded]:
    """Return the shortest of ``rows`` and the next longer one, so that there is padding; or two others, if any."""
    ordered = sorted(rows, key=lambda row: len(row.input_ids))
    longer = next((i for i, row in enumerate(ordered) if len(row.input_ids) > len(ordered[0].input_ids)), 1)
    pair = [ordered[0], *ordered[longer : longer + 1]]
    rest = ordered[1:longer] + ordered[longer + 1 :]
    return (rest[:2] or pair) if others else pair


def _digest(model: AdaptedModel, trunk: Trunk, rows: Sequence[Encoded], shift: int) -> str:
    """Return a digest of all that the hidden states depend on: programs, settings, weights, rows, positions."""
    facts = {
        "packages": {package: version(package) for package in _PACKAGES},
        "config": structural(model.model.config),
        "device": model.device.type,
        "dtype": str(trunk.dtype),
        "blocks": trunk.height,
        "shift": shift,
        "rows": rows_key(rows),
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    # Weights are read where they are, not where they came from: a base in memory may have been changed since.
    above = tuple(f"{path}." for path in model.base.structure.blocks[trunk.height :])
    for name, tensor in (*model.model.named_parameters(), *model.model.named_buffers()):
        if not name.startswith(above):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
