"""What is known of a base before its weights load: its task, its rows in tokens, and what each method would learn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, final

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from petune.adapter import build_adapter
from petune.backbone.base import load_base_config, meta_model
from petune.backbone.quantization import Kept, kept_as
from petune.backbone.structure import Structure
from petune.backbone.tokenizer import load_tokenizer
from petune.comparison.pace import Pace, pace_of, stand_in
from petune.comparison.recipe import CompareOptions
from petune.comparison.split import PartFiles
from petune.data.encoding import Encoded
from petune.data.examples import ExampleSet
from petune.data.lengths import resolve_max_length
from petune.data.loading import CheckedRows, check_files, render_examples
from petune.data.options import DataOptions
from petune.errors import BaseModelError, ConfigError, DataError
from petune.evaluation.evaluate import default_metrics, settle, text_metrics
from petune.evaluation.metrics import higher_is_better, measured_name, require_direction
from petune.evaluation.options import EvaluationOptions
from petune.evaluation.predict import are_choices
from petune.evaluation.scoring import check_labels, distinct_labels
from petune.sites.placement import Placement
from petune.tasks.head_task import HeadTask
from petune.tasks.rows import read_rows_for
from petune.tasks.task import Task
from petune.training.learned_memory import learned_bytes
from petune.training.memory import give_back
from petune.training.options import TrainingOptions
from petune.training.recipe import Recipe
from petune.training.rows import require_known_labels

SAMPLED = 64
"""Training rows that a batch is made of to be timed."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a method would learn on a base."""

    trainable: int
    """Numbers learned; 0 where it cannot be used."""

    stored: int = 0
    """Bytes of the tensors that an adapter folder keeps."""

    refused: str | None = None
    """Why it cannot be used on this base."""

    in_front: int = 0
    """Positions of the model that it takes in front of each row."""

    inside: int = 0
    """Tokens that it writes into each row."""


@final
@dataclass(frozen=True, slots=True)
class Survey:
    """What is known of one base."""

    name: str
    """The base, as the recipe names it."""

    task: Task
    """What it is trained for."""

    labels: tuple[str, ...]
    """The classes of its head; empty where it has none."""

    metric: str
    """The metric that decides."""

    model: PreTrainedModel
    """The base on the meta device: shapes, no weights."""

    train: tuple[int, ...]
    """Tokens of each training row."""

    development: tuple[int, ...]
    """Tokens of each development row."""

    test: tuple[int, ...]
    """Tokens of each test row."""

    tokenizer: PreTrainedTokenizerBase | None = None
    """Its tokenizer."""

    rows: tuple[Encoded, ...] = ()
    """Some training rows, to time a batch of."""

    kept: Kept | None = None
    """As which blocks it keeps its weights; None where they are plain."""

    limit: int | None = None
    """Positions of the model; None where unknown or unlimited."""

    longest: int | None = None
    """Tokens that a row may have before a method adds its own; None where no method is short of room."""

    _outlooks: dict[str, Outlook] = field(default_factory=dict)
    _paces: dict[str, Pace | None] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """Parameters of the base."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def has_head(self) -> bool:
        """Whether it has a head for its task, which may start at random."""
        return isinstance(self.task, HeadTask)

    @property
    def longest_row(self) -> int:
        """Tokens of the longest of all rows."""
        return max((*self.train, *self.development, *self.test))

    def outlook(self, method: str, settings: Mapping[str, Any]) -> Outlook:
        """Return what ``method`` with these settings would learn here."""
        config = Recipe.parse({**settings, "method": method}).method
        key = f"{method} {config.model_dump_json()}"
        if key not in self._outlooks:
            try:
                adapter = build_adapter(method, config.model_dump(), self.model, Structure(self.model))
                stored = sum(tensor.nbytes for tensor in adapter.baked().tensors().values())
                inside = self._tokens_of(adapter.placement)
                self._outlooks[key] = Outlook(
                    adapter.num_parameters(), stored, in_front=adapter.virtual_tokens, inside=inside
                )
            except (BaseModelError, ConfigError) as error:
                self._outlooks[key] = Outlook(0, refused=str(error))
        return self._outlooks[key]

    def _tokens_of(self, placement: Placement | None) -> int:
        """Return how many tokens a placement writes into a row, its words included."""
        if placement is None:
            return 0
        tokenizer = self.tokenizer
        texts = [part for part in (*placement.before, *placement.after) if isinstance(part, str)]
        words = [len(tokenizer(text, add_special_tokens=False).input_ids) for text in texts] if tokenizer else ()
        return placement.num_virtual_tokens + sum(words)

    def max_length(self, method: str, settings: Mapping[str, Any], asked: int | None) -> int | None:
        """Return the longest row in a trial, what the method writes into it included; None for the model's own limit.

        Args:
            method: its name.
            settings: its settings.
            asked: what the user allows, for all methods.
        """
        return asked if self.longest is None else self.longest + self.outlook(method, settings).inside

    def room(self, method: str, settings: Mapping[str, Any], asked: int | None) -> int | None:
        """Return how many tokens a row may have beside those of a method; None where none fits, or it is refused.

        Args:
            method: its name.
            settings: its settings.
            asked: what the user allows, for all methods.
        """
        outlook = self.outlook(method, settings)
        if outlook.refused is not None or self.tokenizer is None:
            return None
        positions = None if self.limit is None else self.limit - outlook.in_front
        wanted = asked if asked is None or positions is None else min(asked, positions)
        try:
            most = resolve_max_length(wanted, self.tokenizer, model_limit=self.limit, virtual_tokens=outlook.in_front)
        except DataError:
            return None
        room = most - outlook.inside
        return room if room >= 2 else None

    def leaves_room(self, method: str, settings: Mapping[str, Any], asked: int | None) -> bool:
        """Say whether a method can be used here and leaves its rows the room that they have with the others.

        Args:
            method: its name.
            settings: its settings.
            asked: what the user allows, for all methods.
        """
        room = self.room(method, settings, asked)
        return room is not None and room >= (self.longest or self.longest_row)

    def pace(
        self,
        method: str,
        settings: Mapping[str, Any],
        options: TrainingOptions,
        *,
        device: torch.device,
        dtype: torch.dtype,
        room: int,
    ) -> Pace | None:
        """Return what a token costs ``method`` here, measured once; None where that cannot be measured.

        Args:
            method: its name.
            settings: its settings.
            options: sizes of batches.
            device: where it would run.
            dtype: precision of the base.
            room: bytes that measuring may take.
        """
        config = Recipe.parse({**settings, "method": method}).method
        batch = (options.per_device_train_batch_size, options.max_tokens_per_batch, options.gradient_checkpointing)
        key = f"{method} {config.model_dump_json()} {batch} {device} {dtype}"
        if key not in self._paces:
            bytes_each = torch.empty(0, dtype=dtype).element_size()
            trainable = self.outlook(method, settings).trainable
            needed = (self.parameters + trainable) * bytes_each + learned_bytes(trainable)
            self._paces[key] = None
            if self.rows and needed <= room:
                base = stand_in(self.model, device, dtype, self.tokenizer, self.kept)
                self._paces[key] = pace_of(base, self.task, self.rows, method, config.model_dump(), options)
                del base
                give_back(device)  # trials run in other processes, which need it
        return self._paces[key]


def survey_for_all(
    name: str,
    options: CompareOptions,
    files: PartFiles,
    candidates: Sequence[tuple[str, Mapping[str, Any]]],
    *,
    trust_remote_code: bool = False,
) -> Survey:
    """Return the survey of a base, with rows that are the same for every method, the one with the least room for them.

    Args:
        name: the base.
        options: the comparison.
        files: its rows.
        candidates: the methods and settings to compare.
        trust_remote_code: let the base's repository run its own code.

    Raises:
        PetuneError: as :func:`survey` does; ``DataError`` also where rows are too long for one of the methods.
    """
    found = survey(name, options, files, trust_remote_code=trust_remote_code)
    rooms = [(room, *own) for own in candidates if (room := found.room(*own, options.max_length)) is not None]
    room, method, settings = min(rooms, key=lambda each: each[0], default=(None, "", {}))
    if room is None or found.longest_row <= room:
        return found
    try:
        alike = survey(name, options, files, longest=room, trust_remote_code=trust_remote_code)
    except DataError as error:
        outlook = found.outlook(method, settings)
        raise DataError(
            f"{error}. All methods of a comparison have the same rows, and {method} adds"
            f" {outlook.in_front + outlook.inside:,} tokens to each: fewer virtual tokens leave more room"
        ) from error
    return replace(alike, longest=room)


def survey(
    name: str, options: CompareOptions, files: PartFiles, *, longest: int | None = None, trust_remote_code: bool = False
) -> Survey:
    """Read what there is to know of a base, and check that its rows can be learned and measured.

    Args:
        name: the base.
        options: the comparison.
        files: its rows.
        longest: tokens that a row may have (default: what the user and the model allow).
        trust_remote_code: let the base's repository run its own code.

    Raises:
        BaseModelError: the base cannot be had.
        ConfigError: a metric cannot be measured for its task, or it has no blocks to keep.
        DataError: rows are too long for it, have labels that training rows lack, or lack what a metric needs.
    """
    kept = kept_as(options.quantization, name)
    reading = DataOptions.model_validate(
        {
            **{key: getattr(options, key) for key in DataOptions.model_fields},
            "data": str(files.train),
            "eval_data": str(files.development),
            "validation_split": None,
        }
    )
    rows = read_rows_for(reading, task=options.task, seed=0).settled(
        partial(load_base_config, name, trust_remote_code=trust_remote_code)
    )
    tokenizer, limit = load_tokenizer(name, trust_remote_code=trust_remote_code)
    test = check_files(rows.options.model_copy(update={"data": str(files.test), "eval_data": None})).train
    parts: dict[str, ExampleSet] = {}
    lengths: dict[str, tuple[int, ...]] = {}
    samples: dict[str, tuple[Encoded, ...]] = {}
    for part, checked in (("train", rows.data.train), ("development", rows.data.eval), ("test", test)):
        assert isinstance(checked, CheckedRows)
        parts[part] = render_examples(checked, rows.options, tokenizer)
        encoded = rows.task.encode_within(
            parts[part],
            tokenizer,
            labels=rows.labels,
            max_length=longest or options.max_length,
            overlong=options.overlong,
            model_limit=longest or limit,
        )
        lengths[part] = tuple(row.num_tokens for row in encoded.rows)
        samples[part] = tuple(encoded.rows[:SAMPLED])
    metric = _metric(rows.task, options, parts)
    return Survey(
        name=name,
        task=rows.task,
        labels=rows.labels,
        metric=metric,
        model=meta_model(name, task=rows.task.name, labels=rows.labels, trust_remote_code=trust_remote_code),
        train=lengths["train"],
        development=lengths["development"],
        test=lengths["test"],
        tokenizer=tokenizer,
        rows=samples["train"],
        kept=kept,
        limit=limit,
    )


def _metric(task: Task, options: CompareOptions, parts: Mapping[str, ExampleSet]) -> str:
    """Return the metric that decides; it and the others can be measured on all rows."""
    names = task.default_metrics if isinstance(task, HeadTask) else default_metrics(parts["train"])
    metric = options.metric or next((name for name in names if higher_is_better(name)), "loss")
    require_direction(measured_name(metric), options.greater_is_better)
    wanted = (metric, *(name for name in options.metrics if name != metric))
    task.check_metrics(wanted)
    if not isinstance(task, HeadTask):
        labels = distinct_labels(parts["train"]) if are_choices(parts["train"]) else ()
        comparing = [known.name for known in text_metrics(wanted) if known.needs == "choices"]
        if comparing and len(labels) < 2:
            train = parts["train"]
            got = f"one label, '{labels[0]}'" if labels else f"no labels (layout {train.layout})"
            raise DataError(
                f"metric '{comparing[0]}' compares label words, but the rows of {train.source} have {got}; give rows"
                " with 'text' and 'label' and two labels at least, or ask for another metric, such as --metric loss"
            )
        for part in ("development", "test"):
            if comparing or part == "development":  # a training refuses validation rows of other labels anyway
                require_known_labels(parts["train"], parts[part])
            metrics, compared = settle(parts[part], EvaluationOptions(metrics=wanted, labels=labels))
            if any(known.needs == "choices" for known in metrics):
                check_labels(compared)
    return metric
