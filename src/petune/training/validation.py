"""What is measured on the validation rows of a run, or of each of its tasks."""

from collections.abc import Sequence
from dataclasses import replace

from petune.adapted_model import AdaptedModel
from petune.evaluation.options import EvaluationOptions
from petune.evaluation.predict import are_choices
from petune.evaluation.runner import Runner, WithHead
from petune.evaluation.scoring import distinct_labels
from petune.tasks.head_task import HeadTask
from petune.training.adapter_run import AdapterRun, Evaluate
from petune.training.options import TrainingOptions
from petune.training.rows import RunRows
from petune.training.task_entries import RunTask

SAMPLED_ROWS = 16
"""Validation rows by which the time of all of them is estimated."""


def validation(
    model: AdaptedModel, tasks: Sequence[RunTask], data: Sequence[RunRows], options: TrainingOptions
) -> Evaluate | None:
    """Return what measures an adapter on the validation rows; None where there are none.

    Of several tasks, each metric is called ``task/metric``, and ``loss`` is the mean of their losses by their shares of
    the steps.

    Args:
        model: the base with the adapter.
        tasks: the tasks of the run.
        data: the rows of each.
        options: which metric decides, and how many tokens go through the model at once.
    """
    if all(rows.eval_rows is None for rows in data):
        return None

    def measure(run: AdapterRun) -> dict[str, float]:
        found: dict[str, float] = {}
        losses: dict[str, float] = {}
        for task, rows in zip(tasks, data, strict=True):
            measured = _measured(model, task, rows, options)
            if measured:
                losses[task.name] = measured["loss"]
            found |= {f"{task.name}/{name}" if task.name else name: value for name, value in measured.items()}
        shares = {name: run.shares[name] for name in losses}
        loss = sum(losses[name] * share for name, share in shares.items()) / sum(shares.values())
        return {"loss": loss, **found}

    return measure


def sample_of(data: Sequence[RunRows]) -> tuple[list[RunRows], float] | None:
    """Return the first validation rows of each task, and how many times as many tokens all of them have."""
    few: list[RunRows] = []
    tokens = sampled = 0
    for rows in data:
        if rows.eval_rows is None or rows.eval_examples is None:
            few.append(rows)
            continue
        some = replace(rows.eval_rows, rows=rows.eval_rows.rows[:SAMPLED_ROWS])
        few.append(replace(rows, eval_rows=some, eval_examples=rows.eval_examples[:SAMPLED_ROWS]))
        tokens += sum(row.num_tokens for row in rows.eval_rows.rows)
        sampled += sum(row.num_tokens for row in some.rows)
    return (few, tokens / sampled) if sampled else None


def runner_for(model: AdaptedModel, name: str) -> Runner:
    """Return the model with the head for the task ``name``: one of its own, else the base's."""
    head = model.base.heads.get(name)
    return model if head is None else WithHead(model, head.model)


def _measured(model: AdaptedModel, task: RunTask, rows: RunRows, options: TrainingOptions) -> dict[str, float]:
    if rows.eval_rows is None or rows.eval_examples is None:
        return {}
    names = ["loss", *task.metrics]
    perplexity = f"{task.name}/perplexity" if task.name else "perplexity"
    if options.metric_for_best_model == perplexity:
        names.append("perplexity")
    # Labels of the training rows too: the validation rows, or the first of them, may lack some.
    known = distinct_labels([*rows.examples, *rows.eval_examples]) if _compares_words(rows) else ()
    wanted = EvaluationOptions(
        metrics=tuple(dict.fromkeys(names)), labels=known, batch_tokens=options.max_tokens_per_batch
    )
    found = rows.task.evaluate(runner_for(model, task.name), rows.eval_examples, wanted, rows=rows.eval_rows.rows)
    return dict(found.metrics)


def _compares_words(rows: RunRows) -> bool:
    return not isinstance(rows.task, HeadTask) and rows.eval_examples is not None and are_choices(rows.eval_examples)
