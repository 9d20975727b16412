"""How fast a method trains and reads on this machine, and what a batch of it holds, found without a base's weights.

A stand-in of the base's own shape, with random numbers for weights, has the method attached and goes through a batch as
large as those of training. What is measured is the method's own maths, on the machine as it is.
"""

import copy
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from petune.adapted_model import AdaptedModel
from petune.adapter import create_adapter
from petune.backbone.base import Base
from petune.backbone.quantization import Kept, blocks_for, pack
from petune.data.batching import answer_starts, collate, split_step
from petune.data.encoding import Encoded
from petune.errors import PetuneError
from petune.sites.placement import Placement
from petune.tasks.task import Task
from petune.training.activations import counted
from petune.training.options import TrainingOptions
from petune.training.recomputation import gradient_checkpointing
from petune.training.save_time import save_seconds
from petune.training.stopwatch import seconds_of
from petune.training.update_time import update_seconds

logger = logging.getLogger("petune")

_SPREAD = 0.02
_WRITING_ROWS = 4


@final
@dataclass(frozen=True, slots=True)
class Pace:
    """What a token costs, and a step."""

    learning: float
    """Seconds of a token that is learned from: forward and backward."""

    reading: float
    """Seconds of a token that is read only."""

    writing: float
    """Seconds of a step of generation: one token for each row of a small batch. 0 where the base writes no text."""

    updating: float
    """Seconds of an optimiser step, beside its tokens."""

    saving: float
    """Seconds of a checkpoint, written to the system's temporary folder."""

    held: int
    """Most bytes that a training batch holds, beside the weights and what is learned."""


def stand_in(
    model: PreTrainedModel,
    device: torch.device,
    dtype: torch.dtype,
    tokenizer: PreTrainedTokenizerBase | None = None,
    kept: Kept | None = None,
) -> Base:
    """Return a base of the shape of ``model``, which is on the meta device, with random numbers for weights.

    Args:
        model: the shape.
        device: where it is to run.
        dtype: its precision.
        tokenizer: the base's own, of which it gets a copy: a method may start from a text, or add tokens.
        kept: as which blocks the base keeps its weights; None where they are plain.
    """
    built = copy.deepcopy(model).to(dtype).to_empty(device="cpu" if kept else device)
    built.tie_weights()
    with torch.no_grad():
        for tensor in (*built.parameters(), *built.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(-_SPREAD, _SPREAD)
            else:
                tensor.zero_()
    if kept is not None:
        pack(built, blocks_for(built, kept))
        built.to(device)
    return Base.from_model(built, copy.deepcopy(tokenizer), name="a stand-in")


def pace_of(
    base: Base, task: Task, rows: Sequence[Encoded], method: str, settings: Mapping[str, Any], options: TrainingOptions
) -> Pace | None:
    """Return the pace of ``method`` on the stand-in ``base``; None where it cannot be made on one.

    Args:
        base: the stand-in.
        task: what is trained.
        rows: some rows of the data.
        method: its name.
        settings: its settings.
        options: sizes of batches.
    """
    try:
        model = AdaptedModel(base, [create_adapter(base, method, **settings)])
        return _measured(model, task, _batch(rows, options), recomputes=options.gradient_checkpointing)
    except (PetuneError, RuntimeError, MemoryError, OSError) as error:
        # Its rows are written in a template, or in several versions. Or memory, or the temporary folder, is taken.
        logger.debug("%s was not timed on a stand-in: %s", method, error)
        return None


def _batch(rows: Sequence[Encoded], options: TrainingOptions) -> list[Encoded]:
    """Return a batch of typical rows, as large as those of training."""
    ordered = sorted(rows, key=lambda row: row.num_tokens)
    count = options.per_device_train_batch_size
    first = max(0, (len(ordered) - count) // 2)
    typical = (ordered * -(-count // len(ordered)))[:count] if count > len(ordered) else ordered[first : first + count]
    lengths = [row.num_tokens for row in typical]
    targets = [row.target_tokens for row in typical]
    most = options.max_tokens_per_batch
    batches = split_step(range(len(typical)), lengths, max_rows=None, max_tokens=most, targets=targets)
    return [typical[place] for place in max(batches, key=len)]


def _measured(model: AdaptedModel, task: Task, rows: list[Encoded], *, recomputes: bool) -> Pace:
    name, adapter = next(iter(model.adapters.items()))
    learns = adapter.method.trains
    adapter.set_trainable(learns)
    objective = task.objective(model.model, model.plugged_into)
    batch = collate(rows, pad_token_id=0, device=model.device)
    plain = dict(batch)
    whole = batch["labels"].shape == batch["input_ids"].shape  # else a label is of the row
    labels = None if whole else batch.pop("labels")
    if adapter.placement is not None:
        batch = model.insert_virtual_tokens(batch)
    labels = batch.pop("labels") if labels is None else labels
    tokens = sum(row.num_tokens for row in rows)
    known = [*model.parameters(), *model.buffers()]

    def read() -> Tensor:
        return objective(batch, labels).sum()

    def learn() -> Tensor:
        loss = read()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    with model.answers_from(answer_starts(rows)):
        learning, updating, saving, held = 0.0, 0.0, 0.0, 0
        if learns:
            model.train()
            with model.fast_training():
                held = _held(model, read, known, recomputes=recomputes)
                with gradient_checkpointing(model.model) if recomputes else nullcontext():
                    learn()  # the first backward pass brings buffers of libraries along
                    learning = seconds_of(learn, model.device)
            adapter.zero_grad(set_to_none=True)
            updating = update_seconds(adapter.num_parameters(), model.device)
            saving = save_seconds(adapter.num_parameters(), Path(tempfile.gettempdir()))
        model.eval()
        with torch.inference_mode(), model.fast_inference():
            with counted(known) as found:
                read()
            reading = seconds_of(read, model.device)
            writing = 0.0
            if model.model.can_generate():
                step = {key: tensor[:_WRITING_ROWS, :1] for key, tensor in plain.items()}
                answers = step.pop("labels")
                with model.route([name] * len(answers)), _without(model, adapter.placement):
                    writing = seconds_of(lambda: objective(step, answers), model.device)
    return Pace(learning / tokens, reading / tokens, writing, updating, saving, max(held, found.most))


def _held(model: AdaptedModel, read: Callable[[], Tensor], known: Sequence[Tensor], *, recomputes: bool) -> int:
    """Return the most bytes that a training batch holds beside what is ``known``."""
    with counted(known, rehearsed=True) as found:
        read()
    if not recomputes:
        return found.most
    with gradient_checkpointing(model.model), counted(known, rehearsed=True) as fewer:
        read()
    # In the backward pass one block at a time stands there again.
    return fewer.most + (found.kept - fewer.kept) // model.base.structure.num_blocks


def _without(model: AdaptedModel, placement: Placement | None) -> AbstractContextManager[None]:
    """Leave virtual tokens among those of a row away: a step of generation finds them in the cache."""
    return nullcontext() if placement is None else model.without_virtual_tokens()
