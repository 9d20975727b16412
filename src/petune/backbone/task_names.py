"""The tasks a base model can be loaded for; free of transformers, so that recipes are checked before it loads."""

from typing import Literal, get_args

TaskName = Literal[
    "causal_lm",
    "seq2seq_lm",
    "masked_lm",
    "sequence_classification",
    "token_classification",
    "question_answering",
]

TASK_NAMES: tuple[TaskName, ...] = get_args(TaskName)

NAMED_CLASSES: frozenset[TaskName] = frozenset({"sequence_classification", "token_classification"})
"""Tasks whose head has one output for each named class."""
