"""What petune does, as functions that return objects: the command line prints what these return."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from petune.adapted_model import AdaptedModel
from petune.backbone.base import Base, load_base, load_base_config
from petune.backbone.further_heads import HeadSpec
from petune.backbone.quantization_names import Quantization
from petune.backbone.task_names import TaskName
from petune.backbone.tokenizer import load_tokenizer
from petune.checkpoint import stack
from petune.checkpoint.folder import load_adapter
from petune.checkpoint.made_for import tasks_of
from petune.checkpoint.merged import save_merged
from petune.data.encoding import EncodedSet, kept_whole
from petune.data.examples import ExampleSet
from petune.data.options import DataOptions
from petune.data.report import DataReport
from petune.errors import ConfigError
from petune.evaluation import generate as generation
from petune.evaluation import predict as prediction
from petune.evaluation.evaluate import Evaluation
from petune.evaluation.generate import Generation
from petune.evaluation.options import EvaluationOptions, GenerationOptions
from petune.evaluation.predict import Prediction
from petune.evaluation.prompts import chat_prompt
from petune.evaluation.runner import context_length
from petune.tasks.asked import Asked, asked_for
from petune.tasks.inspect import report_on
from petune.tasks.reading import examples_for, read_options, refuse_idle, split_options
from petune.tasks.registry import get as get_task
from petune.tasks.rows import read_rows_for

Path_ = str | os.PathLike[str]
logger = logging.getLogger("petune")


def load(
    adapter: Path_ | Sequence[Path_] | None = None,
    *,
    base: Base | Path_ | None = None,
    task: TaskName | None = None,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    allow_base_mismatch: bool = False,
    trust_remote_code: bool = False,
    task_name: str | None = None,
    quantization: Quantization | None = None,
) -> AdaptedModel:
    """Return a base model with the adapter of a folder, or those of several, attached, ready to use.

    Args:
        adapter: an adapter folder: petune's, HF PEFT's, AdapterHub's, or a stack of several; or a list of folders whose
            adapters rows go through in this order, the first nearest to the base. None for the bare base.
        base: a loaded base, or where to get one; by default the one that the adapter names.
        task: what to load the base for; by default what the adapter was trained for, else what its weights were
            saved for.
        dtype: precision of the base: bfloat16, float16, float32 or auto.
        device: cpu, cuda or auto.
        revision: branch, tag or commit of the base, where it is a hub id; by default the one the adapter names.
        allow_base_mismatch: use the adapter even on a base it was not made for.
        trust_remote_code: let the base's repository run its own code.
        task_name: of an adapter that was trained for several tasks, the one to load it for; by default it is loaded
            with the heads of all.
        quantization: keep the base's weights as blocks: gguf, 8bit or 4bit; see :func:`load_base`.

    Raises:
        PetuneError: the base cannot be had, or an adapter is damaged, belongs to another base, or would undo what
            another does.
    """
    if isinstance(base, Base) and (dtype, device, revision, quantization) != ("auto", "auto", None, None):
        raise ConfigError(
            "the base is loaded already: dtype, device, revision and quantization would do nothing; leave them out"
        )
    chosen = () if adapter is None else stack.folders(adapter)
    if not chosen and base is None:
        raise ConfigError("nothing to load: give an adapter folder, a base model, or both")
    members = stack.members(chosen)
    if task_name is not None and not members:
        raise ConfigError(f"there is no adapter that could have been trained for '{task_name}'; leave task_name out")
    trained_for, labels = stack.task_of(members, task_name)
    task = task or trained_for
    labels = labels if task == trained_for else ()
    learned = [] if task_name is not None else [t for member in members for t in tasks_of(member.folder)]
    heads = [HeadSpec(t.name, t.task, t.labels) for t in learned if t.head is not None]
    if base is None:
        base, recorded = stack.base_of(members)
        revision = revision or recorded
    if not isinstance(base, Base):
        base = load_base(
            base,
            task=task,
            labels=labels,
            dtype=dtype,
            device=device,
            revision=revision,
            trust_remote_code=trust_remote_code,
            heads=heads,
            quantization=quantization,
        )
    elif task is not None and task != base.task:
        raise ConfigError(f'the task is {task}, but the base was loaded for {base.task}; load it with task="{task}"')
    model = AdaptedModel(base)
    for member in members:
        loaded = load_adapter(
            member.folder,
            base,
            name=member.name,
            allow_base_mismatch=allow_base_mismatch,
            task_name=stack.task_name_for(member, members, task_name),
        )
        model.attach(loaded, active=False)
    model.activate(*(member.name for member in members))
    return model


def generate(
    model: AdaptedModel,
    prompts: Sequence[str] | Sequence[Sequence[Mapping[str, str]]],
    **options: Any,
) -> list[Generation]:
    """Continue each prompt.

    Args:
        model: a base with or without an adapter.
        prompts: texts, used as they are; or conversations (lists of messages), written with the chat template.
        options: settings of generation: max_new_tokens, temperature, top_p, stop, seed, ...

    Raises:
        ConfigError: an unknown or impossible setting, or a prompt where a list of prompts belongs.
        DataError: a prompt is empty or too long for the model.
    """
    settings = read_options(GenerationOptions, options)
    if isinstance(prompts, str) or any(isinstance(p, Mapping) for p in prompts):
        raise ConfigError("prompts is a single one; give a list of prompts: [prompt]")
    texts = [p if isinstance(p, str) else chat_prompt(model.tokenizer, p) for p in prompts]
    plain = [isinstance(p, str) for p in prompts]
    return generation.generate(model, texts, settings, add_special_tokens=plain)


def evaluate(
    model: AdaptedModel, data: Path_, *, metrics: Sequence[str] = (), task_name: str | None = None, **options: Any
) -> Evaluation:
    """Measure a model on data.

    Args:
        model: a base with or without an adapter.
        data: rows with targets: a file or a hub data set id.
        metrics: names of metrics, or ``file.py:function``; by default those that fit the data.
        task_name: which task the rows are of, where the model has the heads of several.
        options: settings of reading (template, columns, ...; by default as the adapter was trained) and of
            evaluation (labels, max_new_tokens, batch_tokens). Of rows that ``overlong`` truncates, the loss is
            measured on what is left, and nothing else is.

    Raises:
        PetuneError: the data, a metric or a setting cannot be used.
    """
    asked = asked_for(model, task_name)
    reading, rest = split_options(asked, data, options, leave_out=("eval_data", "validation_split"))
    names = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    settings = read_options(EvaluationOptions, {**rest, "metrics": names})
    task = get_task(asked.task)
    examples = examples_for(model, task, reading)
    if reading.max_length is None and reading.overlong == "error":
        return task.evaluate(asked.runner, examples, settings)
    rows = _encoded(model, asked, examples, reading)
    for reason, count in rows.report.dropped.items():
        logger.info("%s of %s rows left out: %s", f"{count:,}", f"{len(examples):,}", reason)
    return task.evaluate(asked.runner, kept_whole(examples, rows), settings, rows=rows.rows)


def read_rows(model: AdaptedModel, data: Path_, **options: Any) -> tuple[ExampleSet, EncodedSet]:
    """Return the rows of ``data`` as a model would be measured on them, written as its adapter was trained, and tokens.

    Args:
        model: a base with or without an adapter.
        data: a file or a hub data set id.
        options: settings of reading, where they are to differ from the adapter's own.

    Raises:
        PetuneError: the data or a setting cannot be used.
    """
    asked = asked_for(model, None)
    reading, rest = split_options(asked, data, options, leave_out=("eval_data", "validation_split"))
    refuse_idle(options, [name for name in rest if name in options])
    examples = examples_for(model, get_task(asked.task), reading)
    return examples, _encoded(model, asked, examples, reading)


def _encoded(model: AdaptedModel, asked: Asked, examples: ExampleSet, reading: DataOptions) -> EncodedSet:
    return get_task(asked.task).encode_within(
        examples,
        model.tokenizer,
        labels=asked.labels,
        max_length=reading.max_length,
        overlong=reading.overlong,
        model_limit=context_length(asked.runner.model),
        virtual_tokens=model.virtual_tokens,
        insertions=model.insertions,
    )


def predict(model: AdaptedModel, data: Path_, *, task_name: str | None = None, **options: Any) -> list[Prediction]:
    """Answer every row of ``data``; rows need no target.

    Args:
        model: a base with or without an adapter.
        data: a file or a hub data set id.
        task_name: which task the rows are of, where the model has the heads of several.
        options: settings of reading (as in :func:`evaluate`), ``labels`` to choose among, or settings of generation.

    Raises:
        PetuneError: the data or a setting cannot be used.
    """
    return list(iter_predictions(model, data, task_name=task_name, **options))


def iter_predictions(
    model: AdaptedModel, data: Path_, *, task_name: str | None = None, **options: Any
) -> Iterator[Prediction]:
    """Answer every row of ``data`` as :func:`predict` does, and yield answers, in order, while others are made.

    Raises:
        PetuneError: the data or a setting cannot be used; raised by the call itself, before the first answer.
    """
    leave_out = ("eval_data", "validation_split", "max_length", "overlong", "train_on")
    asked = asked_for(model, task_name)
    reading, rest = split_options(asked, data, options, leave_out=leave_out)
    labels = rest.pop("labels", ())
    generation_options = read_options(GenerationOptions, rest)
    settings = read_options(EvaluationOptions, {"labels": labels, "batch_tokens": generation_options.batch_tokens})
    task = get_task(asked.task)
    examples = examples_for(model, task, reading, require_target=False)
    idle = [name for name in rest if name != "batch_tokens"]
    compared = asked.labels or prediction.labels_to_compare(examples, settings)
    if idle and (compared or not asked.runner.model.can_generate()):
        logger.warning(
            "%s would act on generated text, but %s",
            ", ".join(idle),
            f"the labels {', '.join(compared)} are compared" if compared else f"the task is {task.name}",
        )
    return task.predict(asked.runner, examples, settings, generation=generation_options)


def merge(
    adapter: Path_ | Sequence[Path_],
    output_dir: Path_,
    *,
    base: Base | Path_ | None = None,
    dtype: str = "auto",
    overwrite: bool = False,
    allow_base_mismatch: bool = False,
    trust_remote_code: bool = False,
    task: TaskName | None = None,
    task_name: str | None = None,
) -> Path:
    """Merge an adapter into its base and write a plain transformers folder; the adapter's folder is not changed.

    Several are merged one after the other. Sums are made in fp32 and rounded to ``dtype``. In fp32 the merged model's
    logits equal the adapter's to 1e-4. ``task`` is what the base is loaded for, where that is not what the adapter was
    trained for. Of an adapter that was trained for several tasks, ``task_name`` says whose head the model gets.

    Raises:
        PetuneError: the adapter cannot be merged, or the output folder cannot be used.
    """
    chosen = stack.folders(adapter)
    stack.require_choices(stack.members(chosen), task_name)
    model = load(
        chosen,
        base=base,
        task=task,
        dtype=dtype,
        allow_base_mismatch=allow_base_mismatch,
        trust_remote_code=trust_remote_code,
        task_name=task_name,
    )
    return save_merged(model, Path(output_dir), overwrite=overwrite)


def inspect_data(data: Path_, *, model: Path_ = "demo", task: TaskName | None = None, **options: Any) -> DataReport:
    """Read, check and encode ``data`` as a training run on ``model`` would, and report on it.

    Args:
        data: a file or a hub data set id.
        model: the base whose tokenizer reads it; its weights are not loaded.
        task: what it is for; by default what the model's weights were saved for, else what its rows are for.
        options: settings of reading: template, columns, max_length, ...

    Raises:
        PetuneError: as a training run would.
    """
    seed, revision = options.pop("seed", 42), options.pop("revision", None)
    trust = options.pop("trust_remote_code", False)
    refuse_idle(options, ("eval_data",))
    settings = read_options(DataOptions, {**options, "data": os.fspath(data)})
    rows = read_rows_for(settings, task=task, seed=seed)
    tokenizer, limit = load_tokenizer(model, revision=revision, trust_remote_code=trust)
    configuration = partial(load_base_config, model, revision=revision, trust_remote_code=trust)
    return report_on(rows.settled(configuration), tokenizer, model_limit=limit)
