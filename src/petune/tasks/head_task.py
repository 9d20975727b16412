"""What the tasks with a head of their own share: one forward pass gives the loss and the answer of each row."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from petune.backbone.arguments import without_cache
from petune.data.batching import collate, split_step
from petune.data.encoding import Encoded
from petune.data.examples import Example, ExampleSet
from petune.errors import ConfigError, DataError
from petune.evaluation.evaluate import Evaluation, resolve_metrics, values_of
from petune.evaluation.loss import TokenLoss
from petune.evaluation.metrics import METRICS, Metric, Need
from petune.evaluation.options import EvaluationOptions, GenerationOptions
from petune.evaluation.predict import Prediction
from petune.evaluation.prompts import listed
from petune.evaluation.runner import Runner, context_length, evaluating, longest_input
from petune.kernels.upload import uploaded
from petune.sites.head import Forward
from petune.tasks.task import Objective, Task


class HeadTask(Task, ABC):
    """A task whose head says the answer.

    Class attributes a task sets besides a :class:`Task`'s:
        compares: what its metrics compare.
        default_metrics: the metrics where none are asked for.
    """

    compares: ClassVar[Need]
    default_metrics: ClassVar[tuple[str, ...]]

    @abstractmethod
    def loss(self, output: Any, labels: Tensor, mask: Tensor) -> Tensor:
        """Return the loss [B] of each row of a batch (nats, fp32), from the model's output.

        Args:
            output: what the model gives.
            labels: those of the rows, padded with -100.
            mask: 1 at the rows' own tokens, 0 at padding [B, T].
        """

    @abstractmethod
    def inputs(self, runner: Runner, examples: Sequence[Example]) -> list[list[Encoded]]:
        """Return rows to answer as token ids, labels left open; a long row may become several.

        Raises:
            DataError: a row does not fit the model.
        """

    @abstractmethod
    def read(self, output: Any, index: int, row: Encoded) -> Any:
        """Return what is kept of the model's output for one row of a batch."""

    @abstractmethod
    def answer(self, runner: Runner, example: Example, found: Sequence[Any]) -> Prediction:
        """Return the answer to a row, from what was kept of each row it became."""

    def objective(self, model: PreTrainedModel, head_is_changed: Callable[[nn.Module], bool]) -> Objective:
        """Return the loss of the head's outputs."""
        return _HeadObjective(self, model)

    def evaluate(
        self,
        runner: Runner,
        examples: ExampleSet,
        options: EvaluationOptions,
        *,
        rows: Sequence[Encoded] | None = None,
    ) -> Evaluation:
        """Measure a model on rows with targets.

        Raises:
            ConfigError: a metric that this task cannot give, or other labels than the head's.
            DataError: there is no row to measure, or one has no target, or does not fit the model.
        """
        started = time.perf_counter()
        metrics = self._metrics(options.metrics or self.default_metrics)
        compares = any(metric.needs == self.compares for metric in metrics)
        if not examples and (compares or not rows):
            cut = "every row was cut, and whole ones are compared; raise --max-length, or ask for the loss alone"
            fix = cut if rows else "give a file with at least one row"
            raise DataError(f"{examples.source}: no rows to measure; {fix}")
        missing = [example.origin for example in examples if example.target is None]
        if missing:
            raise DataError(f"{len(missing):,} of {len(examples):,} rows have no target: {listed(missing)}; add them")
        labels = self.head_labels(runner, options)
        labelled: Sequence[Encoded] | None = None
        if any(metric.needs == "tokens" for metric in metrics):
            labelled = rows
            if labelled is None:
                labelled = self.encode_within(
                    examples,
                    runner.tokenizer,
                    labels=labels,
                    model_limit=context_length(runner.model),
                    virtual_tokens=runner.virtual_tokens,
                    insertions=runner.insertions,
                ).rows
        windows = self.inputs(runner, examples) if compares else []
        loss, kept = self._read(runner, labelled, [row for several in windows for row in several], options.batch_tokens)
        predictions = list(self._answers(runner, examples, windows, kept)) if compares else []
        return Evaluation(
            metrics=values_of(metrics, loss, {self.compares: predictions}),
            predictions=tuple(predictions),
            labels=tuple(labels),
            num_rows=max(len(examples), len({row.origin for row in labelled or ()})),
            num_label_tokens=loss.tokens if loss is not None else 0,
            row_losses=loss.by_origin if loss is not None else {},
            seconds=time.perf_counter() - started,
        )

    def predict(
        self,
        runner: Runner,
        examples: ExampleSet,
        options: EvaluationOptions,
        *,
        generation: GenerationOptions | None = None,
    ) -> Iterator[Prediction]:
        """Yield the answer to each row, in order.

        Raises:
            ConfigError: other labels than the head's.
            DataError: a row does not fit the model.
        """
        self.head_labels(runner, options)
        windows = self.inputs(runner, examples)
        rows = [row for several in windows for row in several]
        _, kept = self._read(runner, None, rows, options.batch_tokens)
        yield from self._answers(runner, examples, windows, kept)

    def check_metrics(self, names: Sequence[str]) -> None:
        """Check that metrics of these names can be measured.

        Raises:
            ConfigError: one is unknown, or compares what this task does not give.
        """
        self._metrics(names)

    def _metrics(self, names: Sequence[str]) -> list[Metric]:
        metrics = resolve_metrics(names, self.compares)
        own = [name for name, metric in METRICS.items() if metric.needs == self.compares]
        for metric in metrics:
            if metric.needs != self.compares and metric.name != "loss":
                raise ConfigError(
                    f"metric '{metric.name}' is not of the task {self.name}; choose from loss, {', '.join(own)}"
                )
        return metrics

    def head_labels(self, runner: Runner, options: EvaluationOptions) -> tuple[str, ...]:
        """Return the names of the head's outputs.

        Raises:
            ConfigError: the options name other ones.
        """
        labels = tuple(str(runner.model.config.id2label[i]) for i in range(runner.model.config.num_labels))
        if options.labels and set(options.labels) != set(labels):
            raise ConfigError(
                f"labels are {', '.join(options.labels)}, but the head of this model tells {', '.join(labels)} apart;"
                " leave --labels out"
            )
        return labels

    def _read(
        self, runner: Runner, labelled: Sequence[Encoded] | None, asked: Sequence[Encoded], batch_tokens: int
    ) -> tuple[TokenLoss | None, list[Any]]:
        """Return the loss of labelled rows, and what is kept of each row that is asked; like inputs are run once."""
        places: dict[Hashable, list[int]] = {}
        for place, row in enumerate(asked):
            places.setdefault(_inputs(row), []).append(place)
        losses: dict[int, float] = {}
        kept: list[Any] = [None] * len(asked)
        for batch, targets, mask, output in _passes(runner, labelled or (), batch_tokens):
            losses.update(zip(batch, self.loss(output, targets, mask).tolist(), strict=True))
            for index, number in enumerate(batch):
                for place in places.pop(_inputs((labelled or ())[number]), ()):
                    kept[place] = self.read(output, index, asked[place])
        left = [place for own in places.values() for place in own]
        for batch, _, _, output in _passes(runner, [asked[place] for place in left], batch_tokens):
            for index, number in enumerate(batch):
                kept[left[number]] = self.read(output, index, asked[left[number]])
        if labelled is None:
            return None, kept
        return TokenLoss.of(labelled, (losses[i] for i in range(len(labelled))), map(self.num_labels, labelled)), kept

    def _answers(
        self, runner: Runner, examples: ExampleSet, windows: Sequence[Sequence[Encoded]], kept: Sequence[Any]
    ) -> Iterator[Prediction]:
        done = 0
        for example, several in zip(examples, windows, strict=True):
            yield self.answer(runner, example, kept[done : done + len(several)])
            done += len(several)


@final
@dataclass(frozen=True, slots=True)
class _HeadObjective:
    task: HeadTask
    model: PreTrainedModel

    def __call__(self, inputs: Mapping[str, Tensor], labels: Tensor, forward: Forward | None = None) -> Tensor:
        output = (forward or self.model)(**inputs, **without_cache(self.model))
        return self.task.loss(output, uploaded(labels, self.model.device), inputs["attention_mask"])


def _inputs(row: Encoded) -> Hashable:
    """Return what a model is given of a row."""
    return tuple(row.input_ids), tuple(row.token_types)


def _passes(
    runner: Runner, rows: Sequence[Encoded], batch_tokens: int
) -> Iterator[tuple[list[int], Tensor, Tensor, Any]]:
    """Yield, of each forward pass, the indices of its rows, their labels, their mask, and the model's output."""
    pad = runner.tokenizer.pad_token_id
    lengths = [len(row.input_ids) for row in rows]
    for batch in split_step(range(len(rows)), lengths, max_rows=None, max_tokens=batch_tokens):
        inputs = collate([rows[i] for i in batch], pad_token_id=pad, device=runner.device)
        labels = inputs.pop("labels")
        with evaluating(runner):
            output = runner.model(**inputs, **without_cache(runner.model))
        yield batch, labels, inputs["attention_mask"], output


def require_room(rows: Sequence[Encoded], runner: Runner, fix: str) -> None:
    """Check that every row has a place in the model; how long rows may be to be learned from does not count.

    Raises:
        DataError: a row is longer than the model's context; ``fix`` says what to do.
    """
    limit = longest_input(runner)
    if limit is None:
        return
    long = [f"{row.origin} ({len(row.input_ids):,})" for row in rows if len(row.input_ids) > limit]
    if long:
        raise DataError(
            f"{len(long):,} of {len(rows):,} rows are longer than the model's {limit:,} tokens: {listed(long)}; {fix}"
        )


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy [N] of ``labels`` [N] under ``logits`` [N, C]; 0 where the label is -100."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    return nn.functional.cross_entropy(logits.to(wide), labels, reduction="none")
