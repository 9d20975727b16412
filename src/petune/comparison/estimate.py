"""What a trial will cost, before it runs: how many tokens it learns from, reads and writes, times what each costs.

What a token costs is measured on a stand-in of the base (:mod:`petune.comparison.pace`). Where that would not fit, it
is counted: a multiply-add a parameter and token in the forward pass; as many again for the gradients of activations,
and once more for those of weights where the base itself is trained.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch

from petune import methods
from petune.backbone.precision import pick_device, pick_dtype
from petune.backbone.quantization import weights_size
from petune.comparison import machine
from petune.comparison.budget import tokens_per_step
from petune.comparison.job import Job
from petune.comparison.scores import together
from petune.comparison.survey import Survey
from petune.evaluation.metrics import resolve_metric
from petune.evaluation.options import GenerationOptions
from petune.training.byte_sizes import read_bytes
from petune.training.learned_memory import VALUE, learned_bytes, most_above
from petune.training.options import TrainingOptions

_ACTIVATIONS = 16
"""Numbers kept for the backward pass, for each token, block and hidden unit."""
_PROCESS = 600 * 2**20
"""Bytes of the interpreter and its libraries, on the CPU."""
_PART_TO_MEASURE = 4
"""Measuring may take one in so many bytes of the machine's memory."""
_WRITTEN_STEP = 64
"""Cost of a step of generation in tokens that are read: small products make poor use of a processor."""
_FORGETTING_TOKENS, _FORGETTING_STEPS = 1500, 32
"""Tokens of neutral texts and everyday questions, and steps of generation that the answers to these take."""
_SPEED_STEPS = 98
"""Steps of generation that the two measurements of speed take, the prompts' included."""


@final
@dataclass(frozen=True, slots=True)
class Estimate:
    """What a trial will cost."""

    multiplications: float
    """Multiply-adds that come besides, where nothing was measured."""

    seconds: float
    """Time, as far as it was measured or the budget says it."""

    memory: int
    """Most bytes held, about."""

    least_memory: int
    """Bytes that it cannot do without: weights, gradients and moments."""

    weights: int
    """Bytes of the base, and on CPU of the interpreter, which trials that share a pass hold once."""

    def time(self, speed: float) -> float:
        """Return the time in seconds, with ``speed`` multiply-adds a second where nothing was measured."""
        return self.seconds + self.multiplications / speed


def estimate(
    job: Job,
    survey: Survey,
    options: TrainingOptions,
    *,
    like: Mapping[str, Any] | None = None,
    evaluations: int = 0,
) -> Estimate:
    """Return what a trial will cost on a base.

    Args:
        job: the trial.
        survey: its base.
        options: size of its steps.
        like: settings of its method whose pace is taken for its own (default: its own are measured).
        evaluations: how often a budget of seconds measures the validation loss; another says it in its steps.
    """
    method = methods.get(job.method)
    parameters = survey.parameters
    trainable = survey.outlook(job.method, job.settings).trainable
    device = pick_device(str(job.keys["device"]))
    dtype = pick_dtype(str(job.keys["dtype"]), device)
    size = torch.empty(0, dtype=dtype).element_size()
    weights = weights_size(survey.model, size, survey.kept)
    # A base that is learned itself has a copy of its masters to compute with, unless these are of its own precision.
    copied = trainable * size if not method.shares_batch and size < VALUE else 0
    # Blocks are made on the CPU of weights that lie there plain.
    loading = parameters * size if device.type == "cpu" else 0
    least = max(weights + learned_bytes(trainable) + copied, loading)
    room = machine.memory(device) // _PART_TO_MEASURE
    pace = survey.pace(
        job.method, job.settings if like is None else like, options, device=device, dtype=dtype, room=room
    )
    work = _work(job, survey, options, evaluations)
    process = _PROCESS if device.type == "cpu" else 0
    if pace is None:
        learning = (2 if method.shares_batch else 3) * work.learned
        multiplications = (learning + work.read + work.written * _WRITTEN_STEP) * parameters
        seconds = 0.0
        config = survey.model.config.get_text_config()
        batch = min(work.per_step, options.max_tokens_per_batch) if method.trains else options.max_tokens_per_batch
        held = batch * config.hidden_size * (config.num_hidden_layers if method.trains else 1) * _ACTIVATIONS * size
    else:
        multiplications, held = 0.0, pace.held
        seconds = work.learned * pace.learning + work.read * pace.reading + work.written * pace.writing
        seconds += work.steps * pace.updating + work.saves * pace.saving
    if job.budget.unit == "seconds" and method.trains:
        seconds += job.budget.amount
    above = most_above(trainable * VALUE, int(held), accumulates=_accumulates(survey, options))
    memory = max(weights + trainable * VALUE + copied + above, loading) + process
    if options.memory_budget is not None and method.trains:
        memory = min(memory, max(read_bytes(options.memory_budget), least + process))
    return Estimate(
        multiplications=multiplications,
        seconds=seconds,
        memory=memory,
        least_memory=least,
        weights=weights + process,
    )


@final
@dataclass(frozen=True, slots=True)
class _Work:
    """Tokens of a trial."""

    steps: int
    saves: int
    per_step: float
    learned: float
    read: float
    written: float
    """Steps of generation: a token for each row of a batch."""


def _work(job: Job, survey: Survey, options: TrainingOptions, evaluations: int) -> _Work:
    """Count the tokens of a trial."""
    trains = methods.get(job.method).trains
    per_step = tokens_per_step(survey.train, options)
    steps = (job.keys.get("max_steps") or 0) if trains else 0
    if job.budget.unit != "seconds" or not trains:
        evaluations = -(-steps // job.keys["eval_steps"]) if trains and "eval_steps" in job.keys else 0
    measures = job.measures
    tests = measures.test is not None
    parts = [(survey.development, ()), *([(survey.test, measures.metrics)] if tests else [])]
    read, written = float(evaluations * sum(survey.development)), 0.0
    for lengths, further in parts:
        # The loss, which is always measured, and the comparison of labels read the rows once, where not measured apart.
        read += (1 + bool(together(measures.metric, further)[1])) * sum(lengths)
        if any(resolve_metric(name).needs == "text" for name in (measures.metric, *further)):
            written += _batches(lengths, measures.max_new_tokens) * measures.max_new_tokens
    if tests and measures.generation_speed:
        written += _SPEED_STEPS
    if measures.forgetting:
        read += _FORGETTING_TOKENS
        written += _FORGETTING_STEPS
    return _Work(steps, evaluations, per_step, steps * per_step, read, written)


def _accumulates(survey: Survey, options: TrainingOptions) -> bool:
    """Say whether a step may be more than one batch, so that gradients of one wait for those of another."""
    longest = options.per_device_train_batch_size * max(survey.train)
    return options.gradient_accumulation_steps > 1 or longest > options.max_tokens_per_batch


def _batches(lengths: Sequence[int], new_tokens: int) -> int:
    """Return in how many batches answers to rows of these lengths are written."""
    tokens = sum(lengths) + len(lengths) * new_tokens
    return -(-tokens // GenerationOptions().batch_tokens) if lengths else 0


def speed(rate: float) -> float:
    """Return the multiply-adds a second that a model gets of a machine that does ``rate`` in large products."""
    return rate / 3
