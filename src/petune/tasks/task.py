"""The contract of a task: which rows it learns from, how they become numbers, what is minimised, what is answered."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, Literal, Protocol

from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from petune.backbone.task_names import TaskName
from petune.data.encoding import IGNORED, Encoded, EncodedSet
from petune.data.examples import ExampleSet
from petune.data.lengths import resolve_max_length
from petune.data.loading import CheckedData, CheckedRows
from petune.data.options import DataOptions
from petune.errors import DataError
from petune.evaluation.evaluate import Evaluation, text_metrics
from petune.evaluation.options import EvaluationOptions, GenerationOptions
from petune.evaluation.predict import Prediction
from petune.evaluation.runner import Runner
from petune.sites.head import Forward
from petune.sites.placement import Insertion, Placement


class Objective(Protocol):
    """What training minimises."""

    def __call__(self, inputs: Mapping[str, Tensor], labels: Tensor, forward: Forward | None = None) -> Tensor:
        """Return the loss [B] of each row of a batch, summed over its labels (nats, fp32).

        Args:
            inputs: what the model takes.
            labels: the labels of the rows, padded to one length; on the host, so that nobody waits for the device to
                see which count.
            forward: what to call in the model's place (a wrapper around it).
        """
        ...


class Task(ABC):
    """One task.

    Class attributes a task sets:
        name: its name, as recipes and ``load_base`` take it.
        layouts: the layouts of rows it learns from.
        fills_in: whether text may stand behind the answer.
        by_name_only: whether a run is for it only where somebody says so.
        shares_prefix: whether labels lie beside the tokens, so that a batch may be cut where they begin.
    """

    name: ClassVar[TaskName]
    layouts: ClassVar[tuple[str, ...]]
    fills_in: ClassVar[bool] = False
    by_name_only: ClassVar[bool] = False
    shares_prefix: ClassVar[bool] = False

    def reading(self, options: DataOptions) -> DataOptions:
        """Return how rows are to be read, with the templates of this task where the user gave none."""
        return options

    def check_layout(self, layout: str, source: str) -> None:
        """Check that rows of this layout can be learned.

        Raises:
            DataError: they cannot.
        """
        if layout not in self.layouts:
            raise DataError(
                f"{source}: the task {self.name} learns from rows of {' or '.join(self.layouts)}; these are of"
                f" {layout}. Name another task with --task, or map the columns with --columns"
            )

    def check_suffixes(self, suffixes: Iterable[str | None], source: str) -> None:
        """Check that this task can read what templates put behind the answers.

        Raises:
            DataError: it writes the answer last, and there is something.
        """
        if not self.fills_in and any(suffixes):
            raise DataError(
                f"{source}: --template goes on after {{{{ mask }}}}, but the task {self.name} has the answer last; put"
                " {{ mask }} at the end, or fill it in with an encoder and --task masked_lm"
            )

    def check_answers(self, rows: CheckedRows, placement: Placement | None) -> None:  # noqa: B027 - most have nothing to check
        """Check, before any weights load, that every row has a place for its answer.

        Args:
            rows: read and checked.
            placement: where an adapter's virtual tokens stand in them.

        Raises:
            DataError: one has none, or two.
        """

    def check_metrics(self, names: Sequence[str]) -> None:
        """Check that metrics of these names can be measured.

        Raises:
            ConfigError: one cannot.
        """
        text_metrics(names)

    def labels(self, data: CheckedData) -> tuple[str, ...]:
        """Return the names of the classes that the training rows have; empty for a task without.

        Raises:
            DataError: they are fewer than two.
        """
        return ()

    @abstractmethod
    def encode(
        self,
        examples: ExampleSet,
        tokenizer: PreTrainedTokenizerBase,
        *,
        labels: Sequence[str],
        max_length: int,
        overlong: Literal["error", "drop", "truncate"] = "error",
        insertions: Sequence[Insertion] = (),
        room: int | None = None,
    ) -> EncodedSet:
        """Return the rows as token ids and labels, with the report on them.

        Args:
            examples: rendered rows with targets.
            tokenizer: the base's.
            labels: names of the classes, in the order of the head's outputs.
            max_length: longest row in tokens.
            overlong: what to do with longer rows.
            insertions: virtual tokens to write into each row. Where they come in several versions, so does each row,
                one behind the other.
            room: the most that ``max_length`` could be; None where nothing limits it.

        Raises:
            DataError: a row cannot be used.
            ConfigError: virtual tokens cannot stand in such rows where they are asked to.
        """

    def encode_within(
        self,
        examples: ExampleSet,
        tokenizer: PreTrainedTokenizerBase,
        *,
        labels: Sequence[str],
        max_length: int | None = None,
        overlong: Literal["error", "drop", "truncate"] = "error",
        model_limit: int | None = None,
        virtual_tokens: int = 0,
        insertions: Sequence[Insertion] = (),
    ) -> EncodedSet:
        """Encode rows for a model, none of them longer than it has places for.

        Args:
            examples: as :meth:`encode` takes them.
            tokenizer: the base's.
            labels: names of the classes.
            max_length: longest row, in tokens, that the user asked for.
            overlong: what to do with longer rows.
            model_limit: positions of the model; None where unknown or unlimited.
            virtual_tokens: positions that adapters take in front of each row.
            insertions: virtual tokens to write into each row; they count as the row's own.

        Raises:
            DataError: as :func:`petune.data.lengths.resolve_max_length` and :meth:`encode` do.
        """
        longest = resolve_max_length(max_length, tokenizer, model_limit=model_limit, virtual_tokens=virtual_tokens)
        room = None if model_limit is None else model_limit - virtual_tokens
        return self.encode(
            examples,
            tokenizer,
            labels=labels,
            max_length=longest,
            overlong=overlong,
            insertions=insertions,
            room=room,
        )

    def num_labels(self, row: Encoded) -> int:
        """Return how many labels of a row are learned: what the step's loss is a mean over."""
        return sum(label != IGNORED for label in row.labels)

    @abstractmethod
    def objective(self, model: PreTrainedModel, head_is_changed: Callable[[nn.Module], bool]) -> Objective:
        """Return what training of ``model`` minimises; ``head_is_changed`` says where an adapter is plugged in."""

    @abstractmethod
    def evaluate(
        self,
        runner: Runner,
        examples: ExampleSet,
        options: EvaluationOptions,
        *,
        rows: Sequence[Encoded] | None = None,
    ) -> Evaluation:
        """Measure a model on rows with targets; ``rows`` are the same ones as token ids, where there are any."""

    @abstractmethod
    def predict(
        self,
        runner: Runner,
        examples: ExampleSet,
        options: EvaluationOptions,
        *,
        generation: GenerationOptions | None = None,
    ) -> Iterator[Prediction]:
        """Yield the answer to each row, in order; rows need no target."""
