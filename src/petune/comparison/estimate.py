"""What a trial will cost, before it runs: from counts of parameters and tokens, no measurement of the trial itself.

A multiply-add a parameter and token in the forward pass; as many again for the gradients of activations, and once more
for those of weights where the base itself is trained.
"""

from dataclasses import dataclass
from typing import final

import torch

from petune import methods
from petune.backbone.precision import pick_device, pick_dtype
from petune.comparison.budget import tokens_per_step
from petune.comparison.job import Job
from petune.comparison.survey import Survey
from petune.evaluation.metrics import resolve_metric
from petune.training.options import TrainingOptions

_ADAMW = 16
"""Bytes of a learned number: fp32 value, gradient and two moments."""
_ACTIVATIONS = 16
"""Numbers kept for the backward pass, for each token, block and hidden unit."""
_PROCESS = 600 * 2**20
"""Bytes of the interpreter and its libraries, on the CPU."""
_WRITTEN_TOKEN = 4
"""Cost of a generated token, as a multiple of one that is read: small products make poor use of a processor."""
_SIDE_TOKENS = 4000
"""Tokens of neutral text, everyday questions and the measurement of speed."""


@final
@dataclass(frozen=True, slots=True)
class Estimate:
    """What a trial will cost."""

    multiplications: float
    """Multiply-adds."""

    seconds: float | None
    """Time, where the budget says it."""

    memory: int
    """Most bytes held, about."""

    least_memory: int
    """Bytes that it cannot do without: weights, gradients and moments."""

    weights: int
    """Bytes of the base, which trials that share a pass hold once."""


def estimate(job: Job, survey: Survey, options: TrainingOptions) -> Estimate:
    """Return what a trial will cost on a base.

    Args:
        job: the trial.
        survey: its base.
        options: size of its steps.
    """
    method = methods.get(job.method)
    parameters = survey.parameters
    trainable = survey.outlook(job.method, job.settings).trainable
    per_step = tokens_per_step(survey.train, options)
    steps = job.keys.get("max_steps") or 0
    passes = (3 if not method.shares_batch else 2) if method.trains else 0
    evaluations = -(-steps // job.keys["eval_steps"]) if "eval_steps" in job.keys else 1
    work = passes * steps * per_step + sum(survey.development) * (evaluations + 1)
    if job.measures.test is not None:
        work += sum(survey.test) + _SIDE_TOKENS
    for name in (job.measures.metric, *job.measures.metrics):
        if resolve_metric(name).needs == "text":
            rows = len(survey.development) + (len(survey.test) if job.measures.test is not None else 0)
            work += rows * job.measures.max_new_tokens * _WRITTEN_TOKEN
    device = pick_device(str(job.keys["device"]))
    size = torch.empty(0, dtype=pick_dtype(str(job.keys["dtype"]), device)).element_size()
    weights = parameters * size
    least = weights + trainable * _ADAMW
    config = survey.model.config.get_text_config()
    batch = min(per_step, options.max_tokens_per_batch) if passes else options.max_tokens_per_batch
    kept = batch * config.hidden_size * (config.num_hidden_layers if passes else 1) * _ACTIVATIONS * size
    return Estimate(
        multiplications=work * parameters,
        seconds=job.budget.amount if job.budget.unit == "seconds" and passes else None,
        memory=int(least + kept + (_PROCESS if device.type == "cpu" else 0)),
        least_memory=least,
        weights=weights,
    )


def speed(rate: float) -> float:
    """Return the multiply-adds a second that a model gets of a machine that does ``rate`` in large products."""
    return rate / 3
