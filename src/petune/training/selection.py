"""Choosing instead of training: ways to write the rows, measured with the bare base."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter
from petune.backbone.base import Base
from petune.checkpoint.durable import write_text
from petune.data.encoding import Encoded, kept_whole
from petune.data.examples import ExampleSet
from petune.evaluation.metrics import higher_is_better
from petune.evaluation.options import EvaluationOptions
from petune.evaluation.predict import are_choices
from petune.evaluation.runner import Runner
from petune.evaluation.scoring import distinct_labels
from petune.tasks.rows import TaskRows
from petune.tasks.task import Task
from petune.training import output, records
from petune.training.memory import peak_memory, restart_peak
from petune.training.options import TrainingOptions
from petune.training.recipe import Recipe
from petune.training.result import Candidate, TrainingResult, run_summary, save_run
from petune.training.rows import data_format, encode_rows, record_start

LABEL_LOSS = "label_loss"
"""Mean of -log of the right label's share among the labels, in nats: it tells candidates of one accuracy apart."""


def measure(
    task: Task,
    runner: Runner,
    examples: ExampleSet,
    rows: Sequence[Encoded],
    metric: str | None,
    options: TrainingOptions,
    labels: tuple[str, ...],
) -> dict[str, float]:
    """Return what is measured of one candidate, the metric that decides first.

    Args:
        task: what the rows are for.
        runner: the bare base.
        examples: the rows, written as the candidate says.
        rows: the same as token ids.
        metric: what decides; None for accuracy where labels are compared, else the loss.
        options: which metrics are wanted besides.
        labels: of all rows there are, where they have labels; ``examples`` may lack some.

    Raises:
        ConfigError, DataError: a metric, or the rows for it, cannot be used.
    """
    compares = are_choices(examples) and len(labels) > 1
    first = metric or ("accuracy" if compares else "loss")
    wanted = EvaluationOptions(
        metrics=(first, *(m for m in options.metrics if m != first)),
        labels=labels if compares else (),
        batch_tokens=options.max_tokens_per_batch,
    )
    found = task.evaluate(runner, examples, wanted, rows=rows)
    shares = [
        p.probabilities[p.reference] for p in found.predictions if p.probabilities and isinstance(p.reference, str)
    ]
    if not shares:
        return dict(found.metrics)
    return {**found.metrics, LABEL_LOSS: -sum(math.log(max(share, 1e-300)) for share in shares) / len(shares)}


def best(measured: Sequence[Mapping[str, float]], greater_is_better: bool | None = None) -> int:
    """Return the index of the best candidate: by its first metric, then by the label loss, then the first of them.

    Args:
        measured: what was measured of each.
        greater_is_better: whether more of the first metric is better, where it is the user's own.
    """

    def rank(index: int) -> tuple[float, float]:
        name, value = next(iter(measured[index].items()))
        value = value if higher_is_better(name, greater_is_better) else -value
        return (value if math.isfinite(value) else -math.inf, -measured[index].get(LABEL_LOSS, 0.0))

    return max(range(len(measured)), key=rank)


def choose(
    recipe: Recipe,
    base: Base,
    adapter: Adapter,
    written: Sequence[TaskRows],
    *,
    overwrite: bool = False,
) -> TrainingResult:
    """Measure every way to write the rows with the bare base, and write the folder of the best.

    Validation rows decide where there are any, else the training rows.

    Args:
        recipe: the run.
        base: what answers the rows.
        adapter: what remembers the choice; it has no tensors.
        written: the rows, read as each candidate says.
        overwrite: clear the run that the folder holds, once there is a new one.

    Raises:
        PetuneError: as :func:`petune.train` does.
    """
    began = time.perf_counter()
    restart_peak(base.device)
    options, folder = recipe.run, Path(recipe.run.output_dir)
    model = AdaptedModel(base)
    measured = []
    for candidate in written:
        data = encode_rows(candidate, base)
        rows, examples = data.eval_rows or data.rows, data.eval_examples or kept_whole(data.examples, data.rows)
        metric = adapter.method.selection_metric(recipe.method)
        labels = distinct_labels([*data.examples, *examples])
        measured.append(measure(data.task, model, examples, rows.rows, metric, options, labels))
    chosen = best(measured, options.greater_is_better)
    data = encode_rows(written[chosen], base)
    if overwrite:
        output.clear(folder)
    record_start(recipe, folder, [data])
    adapter.data_format = data_format(written[chosen].options, data.examples, base)
    model.attach(adapter)
    forms = adapter.method.candidates(recipe.method)
    result = TrainingResult(
        model=model,
        output_dir=folder,
        steps=0,
        kept_step=0,
        seconds=time.perf_counter() - began,
        peak_memory=peak_memory(base.device),
        trained_parameters=0,
        history=[{**form, **{f"eval_{k}": v for k, v in m.items()}} for form, m in zip(forms, measured, strict=True)],
        reports=((data.rows.report, data.eval_report),),
        candidates=tuple(Candidate(f, m, i == chosen) for i, (f, m) in enumerate(zip(forms, measured, strict=True))),
    )
    write_text(folder / records.METRICS_FILE, "".join(json.dumps(entry) + "\n" for entry in result.history))
    save_run(result, {**run_summary(result, recipe), "candidates": len(forms), "chosen": dict(forms[chosen])})
    return result
