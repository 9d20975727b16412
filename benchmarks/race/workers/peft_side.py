"""Trains with HF PEFT and transformers' Trainer, as their quick start does it on a CPU."""

from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from race.task import Task
from race.trainer_side import CountingCollator, Watch, arguments_of, dataset, report_of

PLANNED = {"train_sampling_strategy": "sequential"}
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    # petune's order of the rows: the data set holds them in that order.
    "same-order": {"arguments": PLANNED, "model": {}},
    # The Trainer's own shuffling.
    "default": {"arguments": {}, "model": {}},
    # That order, rows of like lengths together, and the attention that is often faster on short rows.
    "tuned": {"arguments": PLANNED, "model": {"attn_implementation": "eager"}},
}


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
        **arguments_of(settings, steps, output),
        **({"logging_steps": 1} if task.arguments["log_every_step"] else {}),
        **variant["arguments"],
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=dataset(task, planned=variant["arguments"] == PLANNED, steps=steps),
        data_collator=collator,
        processing_class=tokenizer,
        callbacks=[watch],
    )
    trainer.train()
    model.save_pretrained(output)
    task.answer(report_of(watch, collator, steps))


if __name__ == "__main__":
    main()
