"""Trains with TRL's SFTTrainer, which recomputes activations and mixes precisions unless told otherwise."""

from typing import Any

from trl import SFTConfig, SFTTrainer

from race.peft_model import load_model
from race.task import Task
from race.trainer_contest import precision_arguments, train


def main() -> None:
    """Train ``steps`` steps of ``contest`` in ``manner``, the base in ``dtype``."""
    task = Task.from_command_line()
    train(task, load_model(task), SFTTrainer, SFTConfig, **own_arguments(task))


def own_arguments(task: Task) -> dict[str, Any]:
    """Return SFTTrainer's arguments: the rows are token ids already, all of them short enough."""
    own: dict[str, Any] = {"max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}}
    if task.arguments["dtype"] == "float32" or task.arguments["manner"] != "default":
        own |= precision_arguments(task)
    if task.arguments["manner"] != "default":
        own["gradient_checkpointing"] = False
    return own


if __name__ == "__main__":
    main()
