"""The PiSSA start: what it is, that it changes nothing, and what its files hold."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.checkpoint.folder import load_adapter, save_adapter
from petune.errors import ConfigError
from petune.kernels.dropout import dropout
from petune.methods.low_rank_slots import LoRASlot
from petune.methods.pissa import is_pissa, principal_start
from petune.training.run import train

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


@pytest.mark.parametrize(("name", "tolerance"), [("pissa", 1e-5), ("pissa_niter_16", 1e-3)])
def test_start_is_the_principal_part_of_the_weight(name: str, tolerance: float) -> None:
    torch.manual_seed(0)
    weight = 5 * torch.randn(12, 3) @ torch.randn(3, 20) + torch.randn(12, 20)
    a, b = principal_start(weight, 3, 2.0, name, torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(weight.double(), full_matrices=False)
    expected = (left[:, :3] * values[:3]) @ right[:3]
    torch.testing.assert_close(2.0 * (b @ a).double(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(a.norm(dim=1), b.norm(dim=0), rtol=1e-4, atol=1e-4)
    before = torch.get_rng_state()
    again = principal_start(weight, 3, 2.0, name, torch.Generator().manual_seed(0))
    assert torch.equal(again[0], a)
    assert torch.equal(torch.get_rng_state(), before)


def test_names_of_the_start() -> None:
    assert [is_pissa(name) for name in ("pissa", "pissa_niter_4", "pissa_niter_", "pissa2", True)] == [
        True, True, False, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_trains_step_for_step_like_peft(
    architecture: str, use_dora: bool, tiny_base: Callable[..., Base], token_ids: Callable[..., Tensor]
) -> None:
    ids, base, twin = token_ids(3, 10), tiny_base(architecture), tiny_base(architecture)
    bare = base.model(input_ids=ids).logits
    name = "c_attn" if architecture == "gpt2" else "v_proj"
    settings: dict[str, Any] = {"r": 4, "lora_alpha": 6, "init_lora_weights": "pissa", "use_dora": use_dora}
    adapter = create_adapter(base, target_modules=name, **settings)
    adapter.set_trainable(True)
    ours = AdaptedModel(base, [adapter])
    assert torch.equal(ours(input_ids=ids).logits, bare)
    config = peft.LoraConfig(target_modules=[name], fan_in_fan_out=architecture == "gpt2", **settings)
    theirs = peft.tuners.lora.LoraModel(twin.model, config, "default")
    trainable = [p for p in theirs.parameters() if p.requires_grad]
    optimizers = [torch.optim.SGD(p, lr=0.1) for p in (adapter.parameters(), trainable)]
    for _ in range(3):
        losses = []
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1)
            loss = nn.functional.cross_entropy(logits, ids[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_dropout_keeps_what_belongs_to_the_base() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(3, 6), torch.randn(4, 3)
    slot = LoRASlot(a.clone(), b.clone(), 0.5, dropout=0.5, subtract_start=True)
    with torch.no_grad():
        slot.lora_A.add_(torch.randn(3, 6))
    x, y = torch.randn(2, 6), torch.randn(2, 4)
    torch.manual_seed(3)
    dropped = dropout(x, 0.5)
    torch.manual_seed(3)
    expected = y + 0.5 * (dropped @ slot.lora_A.t() @ slot.lora_B.t() - x @ a.t() @ b.t())
    torch.testing.assert_close(slot.train()(x, y), expected)


@pytest.mark.parametrize("use_rslora", [False, True])
@torch.no_grad()
def test_the_folder_holds_an_update_for_the_base_as_it_is(
    use_rslora: bool,
    tmp_path: Path,
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
    token_ids: Callable[..., Tensor],
) -> None:
    base, ids = tiny_base(), token_ids(2, 8)
    adapter = create_adapter(
        base,
        target_modules=("q_proj", "up_proj", "embed_tokens"),
        r=3,
        lora_alpha=5,
        use_rslora=use_rslora,
        use_dora=True,
        init_lora_weights="pissa",
        rank_pattern={"q_proj": 2},
        alpha_pattern={"up_proj": 7},
    )
    model = AdaptedModel(base, [randomise(adapter)])
    live = model(input_ids=ids).logits
    folder = save_adapter(model, tmp_path / "adapter")

    fresh = tiny_base()
    again = load_adapter(folder, fresh)
    assert again.config.model_dump()["r"] == 6
    assert again.trained_config.model_dump()["init_lora_weights"] == "pissa"
    torch.testing.assert_close(AdaptedModel(fresh, [again])(input_ids=ids).logits, live, rtol=1e-4, atol=1e-4)
    theirs = peft.PeftModel.from_pretrained(tiny_base().model, folder).eval()
    torch.testing.assert_close(theirs(input_ids=ids).logits, live, rtol=1e-4, atol=1e-4)
    assert json.loads((folder / "adapter_config.json").read_text())["rank_pattern"] == {"q_proj": 4}


def test_more_ranks_than_singular_values_are_refused(tiny_base: Callable[..., Base]) -> None:
    with pytest.raises(ConfigError, match=r"rank 20 is more than 'model.layers.0.self_attn.k_proj' has .* \(16\)"):
        create_adapter(tiny_base(), target_modules="k_proj", r=20, init_lora_weights="pissa")


def test_a_resumed_run_counts_from_the_same_start(
    tmp_path: Path, tiny_base: Callable[..., Base], write_rows: Callable[..., Path]
) -> None:
    data = write_rows(tmp_path / "rows.jsonl", [{"prompt": f"a{i} ", "completion": f"b{i}"} for i in range(8)])
    keys: dict[str, Any] = {
        "data": str(data), "method": "lora", "init_lora_weights": "pissa_niter_2", "r": 2, "max_steps": 4,
        "per_device_train_batch_size": 2, "save_steps": 2, "learning_rate": 1e-3,
    }  # fmt: skip
    whole = train({**keys, "output_dir": str(tmp_path / "whole")}, base=tiny_base())
    assert ".start_a" in "".join(load_file(tmp_path / "whole" / "checkpoint-2" / "masters.safetensors"))
    for folder in ("checkpoint-4", "adapter_model.safetensors", "petune.json"):
        path = tmp_path / "whole" / folder
        if path.is_dir():
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
        else:
            path.unlink()
    resumed = train({**keys, "output_dir": str(tmp_path / "whole")}, base=tiny_base(), resume=True)
    for name, tensor in whole.model.adapter("default").tensors().items():
        assert torch.equal(resumed.model.adapter("default").tensors()[name], tensor)
