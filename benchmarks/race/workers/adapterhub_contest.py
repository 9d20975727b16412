"""Trains bottleneck adapters with AdapterHub's adapters and its trainer."""

from typing import Any

import adapters
import torch
from adapters import AdapterTrainer, DoubleSeqBnConfig
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from race.task import Task
from race.trainer_contest import contest_of, model_options, train

NAME = "race"
PLACES = {"self_attn.o_proj": "attention_adapters", "mlp.down_proj": "output_adapters"}
"""Behind which linear of a block petune's network stands, and where the same one is found here."""


def main() -> None:
    """Train ``steps`` steps of ``contest`` in ``manner``, the base in ``dtype``."""
    task = Task.from_command_line()
    torch.set_num_threads(task.work.settings.threads)
    model = AutoModelForCausalLM.from_pretrained(task.work.model, **model_options(task))
    adapters.init(model)
    options = contest_of(task).options
    model.add_adapter(
        NAME,
        config=DoubleSeqBnConfig(
            reduction_factor=model.config.hidden_size / options["bottleneck_size"],
            non_linearity=options["non_linearity"],
        ),
    )
    model.train_adapter(NAME)
    copy_start(model, load_file(task.work.start_tensors))
    train(task, model, AdapterTrainer, **precision(task, model))


@torch.no_grad()
def copy_start(model: nn.Module, given: dict[str, torch.Tensor]) -> None:
    """Give every network the tensors that petune's starts from."""
    modules = dict(model.named_modules())
    networks = {path.rpartition(".")[0] for path in given}
    for path in networks:
        block, place = next((path.removesuffix(f".{end}"), name) for end, name in PLACES.items() if path.endswith(end))
        network = modules[f"{block}.{place}.adapters.{NAME}"]
        network.adapter_down[0].weight.copy_(given[f"{path}.down_weight"])
        network.adapter_down[0].bias.copy_(given[f"{path}.down_bias"])
        network.adapter_up.weight.copy_(given[f"{path}.up_weight"])
        network.adapter_up.bias.copy_(given[f"{path}.up_bias"])


def precision(task: Task, model: nn.Module) -> dict[str, Any]:
    """Return the arguments of precision; adapters in float32 cannot stand behind a bfloat16 base without mixing."""
    if task.arguments["dtype"] == "float32":
        return {}
    if task.arguments["manner"] == "default":
        return {"bf16": True}
    model.to(torch.bfloat16)
    return {}


if __name__ == "__main__":
    main()
