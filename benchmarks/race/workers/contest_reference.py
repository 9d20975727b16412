"""The loss of a contest before the first update by plain transformers: the oracle of every side."""

from functools import partial
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from race.contests import CONTESTS
from race.task import Task
from race.work import IGNORED
from race.workers.changes import WEIGHTS


def main() -> None:
    """Answer with the mean loss per label token of the rows of the first step, in float32, with what all start from."""
    task = Task.from_command_line()
    torch.set_num_threads(task.work.settings.threads)
    device = task.work.settings.device
    model = AutoModelForCausalLM.from_pretrained(task.work.model, dtype="float32").eval().to(device)
    start = _virtual_tokens(task)
    _stand_networks_behind(model, task)
    rows = task.work.read_rows()
    total, count = 0.0, 0
    for index in task.work.read_plan()[0]:
        # One row at a time: no padding, so nothing about padding can be wrong.
        with torch.no_grad():
            inputs = _inputs(model, torch.tensor([rows[index].input_ids], device=device), start)
            logits = model(**inputs).logits[0, -len(rows[index].input_ids) : -1]
        labels = torch.tensor(rows[index].labels[1:], device=device)
        total += float(F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum"))
        count += int((labels != IGNORED).sum())
    task.answer({"loss": total / count, "label_tokens": count})


def _virtual_tokens(task: Task) -> Tensor | None:
    """Return what stands in front of the input, in PEFT's layout; None where the start is the base itself."""
    path = task.work.start / WEIGHTS
    contest = CONTESTS[task.arguments["contest"]]
    return None if contest.trains_base or not path.is_file() else load_file(path).get("prompt_embeddings")


def _stand_networks_behind(model: PreTrainedModel, task: Task) -> None:
    """Have each linear that a bottleneck starts behind give y + W_up relu(W_down y + b_down) + b_up, written out."""
    if CONTESTS[task.arguments["contest"]].method != "bottleneck":
        return
    given = {name: tensor.float().to(model.device) for name, tensor in load_file(task.work.start_tensors).items()}
    for path in {name.rpartition(".")[0] for name in given}:
        down, up = ((given[f"{path}.{end}_weight"], given[f"{path}.{end}_bias"]) for end in ("down", "up"))
        model.get_submodule(path).register_forward_hook(partial(_through_network, down, up))


def _through_network(
    down: tuple[Tensor, Tensor], up: tuple[Tensor, Tensor], module: nn.Module, inputs: object, output: Tensor
) -> Tensor:
    return output + F.linear(F.relu(F.linear(output, *down)), *up)


def _inputs(model: PreTrainedModel, ids: Tensor, start: Tensor | None) -> dict[str, Any]:
    """Return what the model is called with: the row, behind embeddings [P, d] or keys and values of all layers."""
    if start is None:
        return {"input_ids": ids}
    start = start.float().to(ids.device)
    if start.shape[1] == model.config.hidden_size:
        return {"inputs_embeds": torch.cat([start[None], model.get_input_embeddings()(ids)], 1)}
    config = model.config
    layers = start.view(len(start), config.num_hidden_layers, 2, config.num_key_value_heads, -1).permute(1, 2, 3, 0, 4)
    cache = DynamicCache()
    for number, (keys, values) in enumerate(layers):
        cache.update(keys[None], values[None], number)
    return {"input_ids": ids, "past_key_values": cache}


if __name__ == "__main__":
    main()
