"""Blocks compiled while a base trains: the same losses, few graphs, and nothing left behind."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
from transformers import PreTrainedModel

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.backbone.structure import Structure
from petune.errors import ConfigError, ResourceError
from petune.sites.head import LabelLoss
from petune.training.compiled_blocks import compiled_blocks, require_compiler
from petune.training.run import train
from petune.training.run_many import train_many

SIZES = ((3, 7), (2, 9), (4, 5))
CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("default")  # torch warns of its own ways while it traces


def gradients(model: AdaptedModel, *, compiled: bool) -> list[torch.Tensor]:
    """Return the losses of batches of several sizes, and all gradients."""
    adapter = next(iter(model.adapters.values()))
    objective = LabelLoss(model.model, model.plugged_into)
    found = []
    model.train()
    with model.fast_training(compiled=compiled):
        for number, (rows, tokens) in enumerate(SIZES):
            ids = torch.randint(5, 40, (rows, tokens), generator=torch.Generator().manual_seed(number))
            mask = torch.ones_like(ids)
            mask[0, -2:] = 0
            batch = {"input_ids": ids, "attention_mask": mask}
            with model.route([adapter.name] * rows):
                loss = objective(batch, ids.masked_fill(mask == 0, -100)).mean()
                loss.backward()
            found += [loss.detach(), *(p.grad.clone() for p in adapter.parameters() if p.grad is not None)]
            adapter.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("method", ["lora", "prefix_tuning", "prompt_tuning", "bottleneck", "llama_adapter"])
def test_losses_and_gradients_are_the_same_and_blocks_share_graphs(
    method: str, tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]
) -> None:
    base = tiny_base()
    model = AdaptedModel(base, [randomise(create_adapter(base, method))])
    next(iter(model.adapters.values())).set_trainable(True)
    plain = gradients(model, compiled=False)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with compiled_blocks(model.model, base.structure, backend="eager"):
        compiled = gradients(model, compiled=True)
    assert not torch._dynamo.utils.counters["graph_break"]
    assert 1 <= torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 3, "three blocks, three sizes"
    assert len(plain) == len(compiled)
    for one, other in zip(plain, compiled, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert not any("forward" in module.__dict__ for module in model.model.modules())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_a_compiled_run_has_the_losses_of_a_plain_one(
    tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., Any]
) -> None:
    options = keys(num_train_epochs=1)
    plain = train(options, base=tiny_base())
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    options |= {"torch_compile": True, "output_dir": str(tmp_path / "compiled")}
    compiled = train(options, base=tiny_base(), estimate=True)
    losses = [[entry["loss"] for entry in result.history if "loss" in entry] for result in (plain, compiled)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1


def test_without_gradients_nothing_is_compiled(tiny_model: Callable[..., PreTrainedModel]) -> None:
    model = tiny_model()
    ids = torch.tensor([[5, 6, 7]])
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with torch.no_grad(), compiled_blocks(model, Structure(model), backend="eager"):
        model(input_ids=ids)
    assert not torch._dynamo.utils.counters["stats"]


def test_what_compiling_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ResourceError, match="needs a C\\+\\+ compiler, and there is no no-such-compiler: install one"):
        require_compiler(CPU, None)
    monkeypatch.setattr("petune.training.compiled_blocks.find_spec", lambda name: None)
    with pytest.raises(ResourceError, match="needs triton on a GPU: pip install triton"):
        require_compiler(torch.device("cuda"), None)
    with pytest.raises(ConfigError, match="quantization is 8bit, and torch_compile takes plain weights"):
        require_compiler(CPU, "8bit")


@pytest.mark.parametrize(
    "other", [{"gradient_checkpointing": True}, {"memory_budget": "4GiB"}, {"trunk_cache": "1GiB"}], ids=str
)
def test_what_runs_blocks_in_parts_is_refused(other: dict[str, Any], keys: Callable[..., Any]) -> None:
    (name,) = other
    with pytest.raises(ConfigError, match=f"torch_compile runs each block whole, and {name} does not"):
        train(keys(torch_compile=True, **other))


def test_several_adapters_are_refused(tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., Any]) -> None:
    recipes = [keys(torch_compile=True, output_dir=str(tmp_path / name)) for name in ("a", "b")]
    with pytest.raises(ConfigError, match="torch_compile is for one adapter"):
        train_many(recipes, base=tiny_base())
