"""Every task that can be trained, by name, and which one a run is for."""

from collections.abc import Mapping

from transformers import PreTrainedConfig

from petune.backbone.heads import choose_task, possible_tasks
from petune.backbone.task_names import TaskName
from petune.errors import ConfigError
from petune.tasks.causal_lm import CausalLM
from petune.tasks.masked_lm import MaskedLM
from petune.tasks.question_answering import QuestionAnswering
from petune.tasks.seq2seq_lm import Seq2SeqLM
from petune.tasks.sequence_classification import SequenceClassification
from petune.tasks.task import Task
from petune.tasks.token_classification import TokenClassification

TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        CausalLM(),
        Seq2SeqLM(),
        MaskedLM(),
        SequenceClassification(),
        TokenClassification(),
        QuestionAnswering(),
    )
}


def get(name: TaskName) -> Task:
    """Return the task called ``name``."""
    return TASKS[name]


def for_rows(config: PreTrainedConfig, layout: str, name: str) -> Task:
    """Return the task that a model of this configuration learns from rows of this layout, where nobody names one.

    It is what the model's weights were saved for, where that can be; else the first possible task that learns from
    such rows.

    Raises:
        ConfigError: there is none.
        BaseModelError: the model cannot be loaded for any task.
    """
    possible = possible_tasks(config)
    for task in (choose_task(config, None, name), *possible):
        if layout in TASKS[task].layouts and not TASKS[task].by_name_only:
            return TASKS[task]
    raise ConfigError(
        f"{name} ({config.model_type}) learns nothing from rows of {layout}; it can be trained for"
        f" {', '.join(f'{task} (rows of {_listed(task)})' for task in possible)}"
    )


def _listed(task: TaskName) -> str:
    return ", ".join(TASKS[task].layouts)
