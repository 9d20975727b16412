"""One contest on the side of a trainer that is built on transformers' Trainer."""

import json
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerFast, Trainer, TrainingArguments

from race.contests import CONTESTS, Contest
from race.resident import settle, with_loading
from race.task import Task
from race.trainer_side import CountingCollator, Watch, arguments_of, dataset, in_order, report_of
from race.validation import Validation

ATTENTION = {"tuned": "eager", "compiled": "eager"}
"""On short rows eager attention is faster on a CPU than the default, whose backward is made for long ones."""


class ContestWatch(Watch):
    """A watch that tells the memory of loading from that of the steps.

    Args:
        validation: measured as the run goes on, which ends once it is reached.
        device: where the run is.
    """

    def __init__(self, validation: Validation | None, device: str) -> None:
        super().__init__(validation, device)
        self._device = device

    def on_train_begin(self, *_: Any, **others: Any) -> None:
        """Begin the clock on a model that is in memory as a whole."""
        self.peak_of_loading = settle(others["model"], self._device)
        super().on_train_begin()


def contest_of(task: Task) -> Contest:
    """Return what is raced."""
    return CONTESTS[task.arguments["contest"]]


def model_options(task: Task) -> dict[str, Any]:
    """Return what ``from_pretrained`` is told beside the folder.

    A base that is itself learned is held in float32, and computes in bfloat16 where that is asked for: its updates
    would be lost in bfloat16.
    """
    dtype = "float32" if contest_of(task).trains_base else task.arguments["dtype"]
    attention = ATTENTION.get(task.arguments["manner"]) if task.work.settings.device == "cpu" else None
    return {"dtype": dtype, **({} if attention is None else {"attn_implementation": attention})}


def precision_arguments(task: Task) -> dict[str, Any]:
    """Return the training arguments of mixed precision: wanted only where the base is learned in bfloat16."""
    return {"bf16": contest_of(task).trains_base and task.arguments["dtype"] == "bfloat16"}


def tokenizer_of(folder: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer in ``folder``, whose own class older releases of transformers do not know."""
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    named = {key: settings[key] for key in ("pad_token", "eos_token", "bos_token") if settings.get(key)}
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **named)


def train(
    task: Task,
    model: nn.Module,
    trainer: type[Trainer] = Trainer,
    arguments: type[TrainingArguments] = TrainingArguments,
    **own: Any,
) -> None:
    """Train ``steps`` steps, with the planned rows in each step or in the trainer's own order, and answer.

    Args:
        task: what was asked.
        model: the model with its adapter.
        trainer: the peer's trainer.
        arguments: its class of arguments.
        own: arguments beside those that are the same on every side.
    """
    settings, steps = task.settings, int(task.arguments["steps"])
    tokenizer = tokenizer_of(task.work.model)
    validation = None
    if task.arguments.get("to_loss") is not None:
        rows = task.work.read_test_rows()
        validation = Validation(rows, task.arguments["to_loss"], settings.measured_every, tokenizer.pad_token_id)
    watch, collator = ContestWatch(validation, settings.device), CountingCollator(tokenizer)
    logging = {"logging_steps": 1} if task.arguments["log_every_step"] else {}
    compiling = {"torch_compile": True} if task.arguments["manner"] == "compiled" else {}
    output = str(Path(task.arguments["output"]))
    planned = bool(task.arguments["planned"])
    (in_order(trainer) if planned else trainer)(
        model=model,
        args=arguments(**{**arguments_of(settings, steps, output), **logging, **compiling, **own}),
        train_dataset=dataset(task, planned=planned, steps=steps),
        data_collator=collator,
        processing_class=tokenizer,
        callbacks=[watch],
    ).train()
    answer = with_loading(report_of(watch, collator, steps), watch.peak_of_loading)
    task.answer({**answer, "validation": None if validation is None else validation.report()})
