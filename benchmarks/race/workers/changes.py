"""Which tensors of an adapter training has left as they were."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from race.task import Task

WEIGHTS = "adapter_model.safetensors"


def main() -> None:
    """Compare the adapter in ``adapter`` with the one that both sides start from."""
    task = Task.from_command_line()
    start = load_file(task.work.start / WEIGHTS)
    trained = load_file(Path(task.arguments["adapter"]) / WEIGHTS)
    same = [name for name, tensor in start.items() if torch.equal(tensor, trained[name].to(tensor.dtype))]
    task.answer({"tensors": len(start), "unchanged": len(same)})


if __name__ == "__main__":
    main()
