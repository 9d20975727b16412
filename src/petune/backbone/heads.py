"""The head a base model carries for a task, and which class of transformers has it.

A language-modelling head comes with the pretrained weights. The head of a classification or of span extraction usually
does not: it starts at random, belongs to the adapter, and is no part of what identifies the base.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
)

from petune.backbone.kind import Kind, kind_of
from petune.backbone.task_names import NAMED_CLASSES, TASK_NAMES, TaskName
from petune.errors import BaseModelError, ConfigError, nearest

_CLASSES: Mapping[TaskName, tuple[Any, Mapping[str, Any]]] = {
    "causal_lm": (AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
    "seq2seq_lm": (AutoModelForSeq2SeqLM, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES),
    "masked_lm": (AutoModelForMaskedLM, MODEL_FOR_MASKED_LM_MAPPING_NAMES),
    "sequence_classification": (AutoModelForSequenceClassification, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES),
    "token_classification": (AutoModelForTokenClassification, MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES),
    "question_answering": (AutoModelForQuestionAnswering, MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES),
}
_LANGUAGE_MODEL: Mapping[Kind, TaskName] = {
    "decoder": "causal_lm",
    "encoder-decoder": "seq2seq_lm",
    "encoder": "masked_lm",
}
"""The one language-modelling task that each kind of model was pretrained for."""


def auto_class(task: TaskName) -> Any:
    """Return transformers' class that loads models for ``task``."""
    return _CLASSES[task][0]


def possible_tasks(config: PreTrainedConfig) -> tuple[TaskName, ...]:
    """Return the tasks that a model of this configuration can be loaded for."""
    own = _LANGUAGE_MODEL[kind_of(config)]
    if config.model_type not in CONFIG_MAPPING_NAMES:  # the model brings its own code, for language modelling alone
        return (own,)
    foreign = set(_LANGUAGE_MODEL.values()) - {own}
    return tuple(t for t in TASK_NAMES if t not in foreign and config.model_type in _CLASSES[t][1])


def choose_task(config: PreTrainedConfig, task: TaskName | None, name: str) -> TaskName:
    """Return the task to load a model for: ``task``, else what its weights were saved for, else language modelling.

    Raises:
        ConfigError: there is no such task.
        BaseModelError: the model cannot be loaded for it.
    """
    possible = possible_tasks(config)
    if task is None:
        saved = (saved_task(config.architectures or (), config), _LANGUAGE_MODEL[kind_of(config)])
        task = next((t for t in saved if t in possible), None)
    elif task not in TASK_NAMES:
        raise ConfigError(f"unknown task '{task}'; the tasks are {', '.join(TASK_NAMES)}.{nearest(task, TASK_NAMES)}")
    if task not in possible:
        wanted = "any task" if task is None else task
        raise BaseModelError(
            f"{name} is a model of kind {kind_of(config)} ({config.model_type}), which cannot be loaded for {wanted};"
            f" possible: {', '.join(possible) or 'none'}"
        )
    return task


def saved_task(architectures: Iterable[str], config: PreTrainedConfig) -> TaskName | None:
    """Return the task that a class named in ``architectures`` is for; None where none is for one."""
    architectures = tuple(architectures)
    for task in possible_tasks(config):
        known = _CLASSES[task][1].get(config.model_type, ())
        names = {known} if isinstance(known, str) else set(known)
        if not names.isdisjoint(architectures):
            return task
    return None


def task_of_class(model_type: str, name: str) -> TaskName | None:
    """Return the task of transformers' class ``name`` for models of ``model_type``; None where it is unknown."""
    for task in TASK_NAMES:
        known = _CLASSES[task][1].get(model_type, ())
        if name in ((known,) if isinstance(known, str) else known):
            return task
    return None


def task_of(model: PreTrainedModel) -> TaskName:
    """Return the task that a model in memory is for.

    Raises:
        BaseModelError: it has no head of a known task.
    """
    found = saved_task([type(model).__name__], model.config)
    if found is None and model.get_output_embeddings() is not None:
        found = _LANGUAGE_MODEL[kind_of(model.config)]
    if found is None:
        raise BaseModelError(
            f"a {type(model).__name__} has no head of a task that petune knows; load it with one of transformers'"
            f" classes for {', '.join(possible_tasks(model.config)) or 'language modelling'}"
        )
    return found


def class_labels(config: PreTrainedConfig, task: TaskName) -> tuple[str, ...]:
    """Return the names of the classes that the head of a model for ``task`` tells apart; empty where it has none."""
    if task not in NAMED_CLASSES:
        return ()
    return tuple(str(config.id2label[i]) for i in range(config.num_labels))


def set_labels(config: PreTrainedConfig, labels: Sequence[str]) -> None:
    """Give a configuration the classes ``labels``, and thereby its head's width; the same ones keep their order.

    Of the classes one is right for each text, whatever the head was for before.
    """
    config.problem_type = None
    if set(labels) == set(config.id2label.values()) and len(labels) == config.num_labels:
        return
    config.num_labels = len(labels)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: i for i, label in enumerate(labels)}
