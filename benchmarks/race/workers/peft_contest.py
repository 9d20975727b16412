"""Trains with HF PEFT and transformers' Trainer."""

from race.peft_model import load_model
from race.task import Task
from race.trainer_contest import precision_arguments, train


def main() -> None:
    """Train ``steps`` steps of ``contest`` in ``manner``, the base in ``dtype``."""
    task = Task.from_command_line()
    train(task, load_model(task), **precision_arguments(task))


if __name__ == "__main__":
    main()
