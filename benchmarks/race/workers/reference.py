"""The loss before the first update by plain transformers: the oracle of both sides."""

import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from race.task import Task
from race.work import IGNORED


def main() -> None:
    """Answer with the mean loss per label token of the rows of the first step, in ``dtype``."""
    task = Task.from_command_line()
    torch.set_num_threads(task.work.settings.threads)
    model = AutoModelForCausalLM.from_pretrained(task.work.model, dtype=task.arguments["dtype"]).eval()
    rows = task.work.read_rows()
    total, count = 0.0, 0
    for index in task.work.read_plan()[0]:
        # One row at a time: no padding, so nothing about padding can be wrong.
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([rows[index].input_ids])).logits[0, :-1].float()
        labels = torch.tensor(rows[index].labels[1:])
        total += float(F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum"))
        count += int((labels != IGNORED).sum())
    task.answer({"loss": total / count, "label_tokens": count})


if __name__ == "__main__":
    main()
