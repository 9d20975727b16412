"""Continues prompts with petune, as `petune.generate` does it for anybody."""

import time

import torch

import petune
from race.clock import peak_memory
from race.task import Task


def main() -> None:
    """Continue ``prompts`` by ``new_tokens`` with the adapter of ``contest``, ``repeats`` times after a first."""
    task = Task.from_command_line()
    asked = task.arguments
    torch.set_num_threads(task.work.settings.threads)
    model = petune.load(
        task.work.folder / asked["contest"], base=str(task.work.model), dtype=asked["dtype"], device="cpu"
    )
    seconds, answers = [], []
    for _ in range(int(asked["repeats"]) + 1):
        began = time.perf_counter()
        answers = petune.generate(model, asked["prompts"], max_new_tokens=asked["new_tokens"])
        seconds.append(time.perf_counter() - began)
    texts, tokens = [answer.text for answer in answers], [answer.num_tokens for answer in answers]
    task.answer({"seconds": seconds[1:], "texts": texts, "tokens": tokens, "peak": peak_memory()})


if __name__ == "__main__":
    main()
