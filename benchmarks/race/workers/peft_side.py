"""Trains with HF PEFT and transformers' Trainer, as their quick start does it on a CPU."""

from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from race.clock import StepClock
from race.task import Task
from race.work import Row

PLANNED = {"train_sampling_strategy": "sequential"}
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    # petune's order of the rows: the data set holds them in that order.
    "same-order": {"arguments": PLANNED, "model": {}},
    # The Trainer's own shuffling.
    "default": {"arguments": {}, "model": {}},
    # That order, rows of like lengths together, and the attention that is often faster on short rows.
    "tuned": {"arguments": PLANNED, "model": {"attn_implementation": "eager"}},
}


class Watch(TrainerCallback):
    """Follows the run: times, losses and norms where the Trainer logs them."""

    def __init__(self) -> None:
        self.clock = StepClock()
        self.losses: list[float] = []
        self.grad_norms: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Begin the clock."""
        self.clock.begin()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note a step."""
        self.clock.step()

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        """Note what is logged, the summary at the end apart."""
        if "loss" in logs:
            self.losses.append(float(logs["loss"]))
            self.grad_norms.append(float(logs["grad_norm"]))


class CountingCollator(DataCollatorForSeq2Seq):
    """Pads as always, and notes the real tokens of each batch."""

    def __call__(self, features: list[dict[str, Any]], return_tensors: str | None = None) -> Any:
        """Return the padded batch."""
        self.__dict__.setdefault("tokens", []).append(sum(len(row["input_ids"]) for row in features))
        return super().__call__(features, return_tensors)


def main() -> None:
    """Train ``steps`` steps in the manner ``variant``, the base in ``dtype``; keep the adapter in ``output``."""
    task = Task.from_command_line()
    settings, steps = task.work.settings, int(task.arguments["steps"])
    variant, output = VARIANTS[task.arguments["variant"]], task.arguments["output"]
    torch.set_num_threads(settings.threads)
    tokenizer = AutoTokenizer.from_pretrained(task.work.model)
    base = AutoModelForCausalLM.from_pretrained(task.work.model, dtype=task.arguments["dtype"], **variant["model"])
    model = PeftModel.from_pretrained(base, task.work.start, is_trainable=True)
    watch, collator = Watch(), CountingCollator(tokenizer)
    arguments = TrainingArguments(
        output_dir=output,
        use_cpu=True,
        per_device_train_batch_size=settings.rows_per_step,
        max_steps=steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=settings.warm_up(steps),
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        **({"logging_steps": 1} if task.arguments["log_every_step"] else {}),
        **variant["arguments"],
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=dataset(task, variant["arguments"] == PLANNED, steps),
        data_collator=collator,
        processing_class=tokenizer,
        callbacks=[watch],
    )
    trainer.train()
    model.save_pretrained(output)
    task.answer(
        {
            **watch.clock.report(),
            "losses": watch.losses,
            "grad_norms": watch.grad_norms,
            "tokens": collator.__dict__["tokens"][:steps],
        }
    )


def dataset(task: Task, planned: bool, steps: int) -> Dataset:
    """Return the rows in the order of the file, or as the plan has them."""
    rows = task.work.read_rows()
    if planned:
        rows = [rows[index] for step in task.work.read_plan()[:steps] for index in step]
    return Dataset.from_list([features(row) for row in rows])


def features(row: Row) -> dict[str, list[int]]:
    """Return what a tokenised data set holds."""
    return {
        "input_ids": row.input_ids,
        "attention_mask": [1] * len(row.input_ids),
        "labels": row.labels,
    }


if __name__ == "__main__":
    main()
