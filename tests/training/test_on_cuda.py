"""What a CUDA device computes is what a CPU computes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.backbone.quantization import pack
from petune.backbone.rounded_blocks import ROUNDINGS
from petune.data.batching import answer_starts, collate
from petune.data.encoding import IGNORED, Encoded
from petune.evaluation.generate import generate
from petune.evaluation.options import GenerationOptions
from petune.kernels.row_attention import RowLayout, attend_by_row
from petune.kernels.varlen_attention import has_varlen
from petune.sites.head import LabelLoss
from petune.training.run import train
from petune.training.run_many import train_many
from petune.training.unpadded import Unpadded

pytestmark = pytest.mark.gpu

DEVICE = torch.device("cuda")
CPU = torch.device("cpu")
EIGHT_BITS = ROUNDINGS["8bit"]


@pytest.fixture(autouse=True)
def _full_precision() -> Iterator[None]:
    """Keep float32 what it says, so that results may be compared; products do so on their own."""
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield


def on(base: Base, device: torch.device) -> Base:
    """Return the base on ``device``."""
    return Base.from_model(base.model.to(device), base.tokenizer, name=base.name)


def learned(history: list[dict[str, Any]]) -> list[list[float]]:
    return [[entry["loss"], entry["grad_norm"]] for entry in history]


def test_every_method_trains_as_on_a_cpu(
    method: str, tmp_path: Path, tiny_base_for: Callable[..., Base], keys: Callable[..., Any]
) -> None:
    own = {"prefix_dropout": 0.0} if method == "p_tuning_v2" else {}
    found = []
    for device in (CPU, DEVICE):
        options = keys(method=method, max_steps=4, output_dir=str(tmp_path / str(len(found))), **own)
        result = train(options, base=on(tiny_base_for(method), device))
        assert result.model.device.type == device.type, "what is trained lies where its base lay"
        found.append(learned(result.history))
    for here, there in zip(*found, strict=True):
        assert there == pytest.approx(here, rel=2e-3)


def test_adapters_train_together_as_on_a_cpu(
    tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., Any]
) -> None:
    own: list[dict[str, Any]] = [{"method": "lora"}, {"method": "lora", "r": 3}, {"method": "prefix_tuning"}]
    found = []
    for device in (CPU, DEVICE):
        recipes = [keys(output_dir=str(tmp_path / str(len(found)) / str(i)), **o) for i, o in enumerate(own)]
        outcomes = train_many(recipes, base=on(tiny_base(), device))
        results = [outcome.result for outcome in outcomes]
        assert None not in results
        assert all(result.model.device.type == device.type for result in results if result is not None)
        found.append([learned(result.history) for result in results if result is not None])
    for here, there in zip(*found, strict=True):
        assert [n for step in there for n in step] == pytest.approx([n for step in here for n in step], rel=5e-3)


@pytest.mark.parametrize("method", ["lora", "ia3", "prefix_tuning", "prompt_tuning", "llama_adapter", "bottleneck"])
def test_rows_of_one_batch_go_through_their_own_adapters(
    method: str, tiny_base: Callable[..., Base], randomise: Callable[..., Adapter], token_ids: Callable[..., Tensor]
) -> None:
    ids, found = token_ids(5, 9), []
    for device in (CPU, DEVICE):
        model = AdaptedModel(on(tiny_base(), device))
        for seed, name in enumerate(("first", "second")):
            adapter = randomise(create_adapter(model.base, method, name=name, seed=seed).to(CPU), seed=seed)
            model.attach(adapter, active=False)
        with torch.no_grad(), model.route(["first", None, "second", ["first", "second"], "first"]):
            found.append(model(input_ids=ids.to(device)).logits.cpu())
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-4)


def test_generation_writes_the_same(tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]) -> None:
    found = []
    for device in (CPU, DEVICE):
        base = on(tiny_base(), device)
        model = AdaptedModel(base, [randomise(create_adapter(base, "prefix_tuning", num_virtual_tokens=3).to(CPU))])
        written = generate(model, ["red is", "a longer one is"], GenerationOptions(max_new_tokens=12))
        found.append([generation.text for generation in written])
    assert found[0] == found[1]


def test_a_quantised_base_gives_the_same(
    tiny_base: Callable[..., Base], keys: Callable[..., Any], tmp_path: Path
) -> None:
    found = []
    for device in (CPU, DEVICE):
        base = tiny_base(intermediate_size=64)
        linears = [path for path, module in base.model.named_modules() if isinstance(module, nn.Linear)]
        weights = {f"{path}.weight": base.model.get_submodule(path).get_parameter("weight") for path in linears}
        pack(base.model, [(path, EIGHT_BITS.form, EIGHT_BITS.blocks(w)) for path, w in weights.items()])
        options = keys(max_steps=3, output_dir=str(tmp_path / str(len(found))))
        found.append(learned(train(options, base=on(base, device)).history))
    for here, there in zip(*found, strict=True):
        assert there == pytest.approx(here, rel=2e-3)


def test_a_memory_budget_is_kept(tiny_base: Callable[..., Base], keys: Callable[..., Any], tmp_path: Path) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6}
    options = keys(max_steps=2, per_device_train_batch_size=13, gradient_accumulation_steps=1)
    plain = train(options, base=on(tiny_base(**sizes), DEVICE), estimate=True)
    assert plain.estimate is not None
    budget = plain.estimate.memory - plain.estimate.kept // 2
    torch.cuda.reset_peak_memory_stats()
    small = train(
        {**options, "memory_budget": f"{budget}B", "output_dir": str(tmp_path / "small")},
        base=on(tiny_base(**sizes), DEVICE),
    )
    assert small.peak_memory <= budget < plain.peak_memory
    for ours, theirs in zip(learned(small.history), learned(plain.history), strict=True):
        assert ours == pytest.approx(theirs, rel=2e-3)


@pytest.mark.parametrize(("heads", "groups", "width"), [(4, 2, 8), (8, 8, 64), (9, 3, 128)])
def test_the_kernel_for_rows_of_any_lengths(heads: int, groups: int, width: int) -> None:
    lengths = [3, 1, 70, 4]
    generator = torch.Generator().manual_seed(0)
    wide = [torch.randn(sum(lengths), n, 1, width, generator=generator) for n in (heads, groups, groups)]
    weights = torch.randn(sum(lengths), 1, heads, width, generator=generator)
    module = nn.Module()
    module.num_key_value_groups = heads // groups  # type: ignore[assignment]
    found = []
    for device, dtype in ((CPU, torch.float32), (DEVICE, torch.bfloat16)):
        inputs = [t.to(device, dtype).requires_grad_() for t in wide]
        assert has_varlen(inputs[0], inputs[2], {}) == (device == DEVICE)
        layout = RowLayout(lengths, [[0, 1, 2, 3]], device)
        output = attend_by_row(module, *inputs, layout, scaling=0.3)
        gradients = torch.autograd.grad((output.float() * weights.to(device)).sum(), inputs)
        found.append([tensor.float().cpu() for tensor in (output, *gradients)])
    for exact, ours in zip(*found, strict=True):
        assert (ours - exact).norm() <= 2e-2 * exact.norm()


def test_rows_of_one_adapter_lie_end_to_end(tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]) -> None:
    base = on(tiny_base(dtype=torch.bfloat16), DEVICE)
    adapter = randomise(create_adapter(base, "lora").to(CPU))
    model = AdaptedModel(base, [adapter])
    rows = [Encoded([5] * n + [6, 7], [IGNORED] * n + [6, 7], "rows:1") for n in (3, 40, 11)]
    names = ["default"] * len(rows)
    objective = LabelLoss(model.model, model.plugged_into)
    way = Unpadded(model, objective)
    assert way.suits(list(zip(names, rows, strict=True)))
    batch = collate(rows, pad_token_id=0, device=DEVICE)
    labels = batch.pop("labels")
    with torch.no_grad(), model.route(names), model.answers_from(answer_starts(rows)):
        padded = objective(batch, labels)
    with torch.no_grad(), way.losses(names, rows) as found:
        pass
    torch.testing.assert_close(found, padded, rtol=2e-2, atol=2e-2)
