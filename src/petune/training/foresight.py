"""Time and memory of a run, found by going through a few of its batches before it begins."""

import time

from petune.training.adapter_run import AdapterRun
from petune.training.estimate import Estimate
from petune.training.memory import peak_memory
from petune.training.memory_needs import MemoryNeeds, Way
from petune.training.recomputation import described
from petune.training.rehearsal import Batch, Batches, Rehearsal, size
from petune.training.save_time import save_seconds
from petune.training.update_time import update_seconds

_TIMED = (1, 3, 5)
_OF = 6
"""Batches are timed that are larger than one, three and five sixths of all."""
_OVERHEAD = 64
"""Tokens that take as long as a batch costs for being one."""
_FORWARD = 1 / 3
"""Part of a batch's time that its forward pass takes, which is gone through alone to count memory."""
_BEFORE = 0.6
"""Batches of middle size that :class:`MemoryNeeds` goes through before it counts."""


def cost(rehearsal: Rehearsal, *, grows_faster: bool) -> float:
    """Return about how long an estimate takes, as a share of the time that all batches of the run take.

    Args:
        rehearsal: goes through its batches.
        grows_faster: as for :func:`estimated`.
    """
    batches = rehearsal.batches()
    timed = _timed(batches)
    tokens = (2 if grows_faster else 1) * sum(map(_cost_in_tokens, timed)) + _BEFORE * _cost_in_tokens(timed[-1])
    tokens += (1 + _FORWARD) * sum(map(_cost_in_tokens, batches.largest))
    return tokens / _tokens_of_all(batches)


def estimated(rehearsal: Rehearsal, needs: MemoryNeeds, way: Way, *, grows_faster: bool) -> Estimate:
    """Return the time and memory of a run; call it where its batches are run in this way.

    Args:
        rehearsal: goes through its batches.
        needs: its memory.
        way: how its batches are run.
        grows_faster: whether what the first epoch computes is kept, so that later ones are faster.
    """
    device, need = rehearsal.model.device, needs.of(way)
    batches = rehearsal.batches(way.most_tokens)
    before = peak_memory(device)
    pace = _seconds_per_token(rehearsal, batches)
    if grows_faster:
        new = min(1.0, 1 / max(_epochs(run) for run in rehearsal.runs))
        pace = new * pace + (1 - new) * _seconds_per_token(rehearsal, batches)
    for batch in batches.largest:
        rehearsal.timed(batch)
    memory = max(before, needs.held + need.above)
    if peak_memory(device) > before:  # then it is that of these batches, which says more than a count
        memory = peak_memory(device) + needs.moments + needs.waiting(way)
    seconds = _tokens_of_all(batches) * pace + sum(_beside_batches(run) for run in rehearsal.runs)
    return Estimate(
        seconds=seconds,
        memory=memory,
        model=needs.held,
        kept=need.kept,
        steps=max(run.total_steps for run in rehearsal.runs),
        recomputed=described(way.parts) if way.parts else "",
        most_tokens=way.most_tokens,
    )


def _seconds_per_token(rehearsal: Rehearsal, batches: Batches) -> float:
    """Return the time of a token."""
    chosen = _timed(batches)
    seconds = sum(rehearsal.timed(batch)[0] for batch in chosen)
    return seconds / sum(map(_cost_in_tokens, chosen))


def _timed(batches: Batches) -> list[Batch]:
    """Return the batches to time, the smallest first."""
    ordered = sorted(batches.batches, key=size)
    return list({id(batch): batch for batch in (ordered[len(ordered) * place // _OF] for place in _TIMED)}.values())


def _cost_in_tokens(batch: Batch) -> int:
    """Return how many tokens take as long as a batch."""
    return size(batch) + _OVERHEAD


def _tokens_of_all(batches: Batches) -> float:
    """Return how many tokens take as long as all batches of the run."""
    return batches.share * sum(map(_cost_in_tokens, batches.batches))


def _epochs(run: AdapterRun) -> float:
    """Return how many epochs are to come."""
    return run.schedule.epoch_at(run.total_steps) - run.schedule.epoch_at(run.progress.step)


def _beside_batches(run: AdapterRun) -> float:
    """Return the time of updates, evaluations and checkpoints."""
    steps = range(run.progress.step + 1, run.total_steps + 1)
    learned = [p for p in run.adapter.parameters() if p.requires_grad]
    count = sum(parameter.numel() for parameter in learned)
    measured = run.evaluate is not None
    evaluations = sum(run.due(run.options.eval_steps, step) for step in steps) if measured else 0
    saves = sum(
        (measured and run.due(run.options.eval_steps, step)) or run.due(run.options.save_steps, step) for step in steps
    )
    seconds = len(steps) * update_seconds(count, learned[0].device) + saves * save_seconds(count, run.output)
    if evaluations and run.sample is not None:
        measure, share = run.sample
        began = time.perf_counter()
        measure(run)
        seconds += evaluations * share * (time.perf_counter() - began)
    return seconds
