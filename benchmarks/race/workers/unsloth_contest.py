"""Trains with Unsloth, which changes transformers as it is imported, and so comes first."""

# isort: off
from unsloth import FastLanguageModel

# isort: on
import json
from typing import Any

import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn

from race.peft_model import WEIGHTS
from race.task import Task
from race.trainer_contest import train

RECOMPUTES = {"default": "unsloth", "tuned": False}
"""Its documentation recommends to compute activations anew; where memory is no concern, that costs time."""


def main() -> None:
    """Train ``steps`` steps of ``contest`` in ``manner``, the base in ``dtype``."""
    task = Task.from_command_line()
    train(task, load_model(task), bf16=task.arguments["dtype"] == "bfloat16")


def load_model(task: Task) -> nn.Module:
    """Return the base with the adapter that every side starts from."""
    settings = task.work.settings
    start: dict[str, Any] = json.loads((task.work.start / "adapter_config.json").read_text(encoding="utf-8"))
    model, _ = FastLanguageModel.from_pretrained(
        model_name=str(task.work.model),
        max_seq_length=int(task.work.describe()["longest_row"]),
        dtype=getattr(torch, task.arguments["dtype"]),
        load_in_4bit=False,
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=start["r"],
        lora_alpha=start["lora_alpha"],
        lora_dropout=0,
        bias="none",
        target_modules=list(start["target_modules"]),
        use_gradient_checkpointing=RECOMPUTES[task.arguments["manner"]],
        random_state=settings.seed,
    )
    set_peft_model_state_dict(model, load_file(task.work.start / WEIGHTS))
    made: nn.Module = model
    return made


if __name__ == "__main__":
    main()
