"""Measures a model on the held-out reviews by comparing the label words, whoever trained its adapter."""

import torch

import petune
from petune.data.reviews import prompt_format
from race.task import Task


def main() -> None:
    """Answer with the metrics of the adapter in ``adapter``, or of the bare base."""
    task = Task.from_command_line()
    torch.set_num_threads(task.work.settings.threads)
    model = petune.load(task.arguments["adapter"], base=task.work.model, dtype="bfloat16", device="cpu")
    evaluation = petune.evaluate(model, task.work.test_text, **prompt_format())
    task.answer(evaluation.to_dict())


if __name__ == "__main__":
    main()
