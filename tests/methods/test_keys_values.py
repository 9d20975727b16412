"""Keys and values computed by a network: its formula, its start, and what is left of it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.checkpoint.folder import load_adapter
from petune.training.run import train

METHODS = ("prefix_tuning", "p_tuning_v2")


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@torch.no_grad()
def test_the_network_is_the_formula(
    method: str, tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]
) -> None:
    base = tiny_base()
    options = {"num_virtual_tokens": 5, "prefix_projection": True, "encoder_hidden_size": 7}
    adapter = randomise(create_adapter(base, method, **options))
    own = {name.removeprefix("source.decoder."): tensor.double() for name, tensor in adapter.tensors().items()}
    hidden = torch.tanh(own["embedding"] @ own["inner.weight"].T + own["inner.bias"])
    flat = hidden @ own["outer.weight"].T + own["outer.bias"]
    assert flat.shape == (5, 3 * 2 * 2 * 8)  # tokens; layers, keys and values, heads, width

    kept = adapter.baked().tensors()

    stacked = flat.view(5, 3, 2, 2, 8).permute(1, 2, 3, 0, 4)
    for layer, attention in enumerate(base.structure.attentions):
        for i, name in enumerate(("keys", "values")):
            torch.testing.assert_close(
                kept[f"{attention.path}.{name}"].double(), stacked[layer, i], rtol=1e-5, atol=1e-5
            )


@pytest.mark.parametrize("architecture", ["t5", "bart"])
@torch.no_grad()
def test_an_encoder_decoder_has_a_network_for_each_kind_of_attention(
    method: str, architecture: str, tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]
) -> None:
    base = tiny_base(architecture)
    options = {"num_virtual_tokens": 5, "prefix_projection": True, "encoder_hidden_size": 7}
    adapter = randomise(create_adapter(base, method, **options))
    tensors = adapter.tensors()
    kept = adapter.baked().tensors()
    names = ("embedding", "inner.weight", "inner.bias", "outer.weight", "outer.bias")
    kinds = ("encoder", "decoder", "cross")
    assert set(tensors) == {f"source.{kind}.{name}" for kind in kinds for name in names}
    for kind in kinds:
        own = {name: tensors[f"source.{kind}.{name}"].double() for name in names}
        hidden = torch.tanh(own["embedding"] @ own["inner.weight"].T + own["inner.bias"])
        flat = hidden @ own["outer.weight"].T + own["outer.bias"]
        attentions = [attention for attention in base.structure.attentions if attention.kind == kind]
        assert len(attentions) == 2
        heads, width = attentions[0].num_kv_heads, attentions[0].head_dim
        stacked = flat.view(5, 2, 2, heads, width).permute(1, 2, 3, 0, 4)  # layers, keys and values
        for layer, attention in enumerate(attentions):
            for i, name in enumerate(("keys", "values")):
                found = kept[f"{attention.path}.{name}"].double()
                torch.testing.assert_close(found, stacked[layer, i], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ["t5", "bart"])
def test_each_network_learns_from_its_own_attentions(
    method: str, architecture: str, tiny_base: Callable[..., Base], token_ids: Callable[..., torch.Tensor]
) -> None:
    base, ids = tiny_base(architecture), token_ids(2, 7)
    options = {"num_virtual_tokens": 4, "prefix_projection": True, "encoder_hidden_size": 6, "prefix_dropout": 0.0}
    adapter = create_adapter(base, method, **options)
    direct = adapter.baked()
    gradients = []
    for own in (direct, adapter):
        own.set_trainable(True)
        model = AdaptedModel(base, [own])
        model(input_ids=ids, decoder_input_ids=ids[:, :5]).logits.square().sum().backward()
        gradients.append({name: p.grad for name, p in own.named_masters()})
        model.detach("default")
    wanted, found = gradients
    for kind in ("encoder", "decoder", "cross"):
        parts = [
            wanted[f"{a.path}.{name}"].sum(1).flatten()
            for a in base.structure.attentions
            if a.kind == kind
            for name in ("keys", "values")
        ]
        torch.testing.assert_close(found[f"source.{kind}.outer.bias"], torch.cat(parts), rtol=1e-3, atol=1e-4)
        assert found[f"source.{kind}.embedding"].any()


@pytest.mark.parametrize("architecture", ["t5", "bart"])
def test_checkpoints_keep_every_network_and_folders_none(
    architecture: str, tmp_path: Path, tiny_base: Callable[..., Base], write_rows: Callable[..., Path]
) -> None:
    data = write_rows(tmp_path / "rows.jsonl", [{"prompt": f"say {i}", "completion": str(i)} for i in range(8)])
    recipe = {
        "data": str(data), "method": "prefix_tuning", "prefix_projection": True, "encoder_hidden_size": 6,
        "prefix_dropout": 0.1, "num_virtual_tokens": 3, "per_device_train_batch_size": 2, "save_steps": 2,
        "num_train_epochs": 1, "lr_scheduler_type": "constant", "learning_rate": 1e-2,
    }  # fmt: skip
    whole = train({**recipe, "output_dir": str(tmp_path / "whole")}, base=tiny_base(architecture)).model
    train({**recipe, "output_dir": str(tmp_path / "part")}, base=tiny_base(architecture))
    masters = load_file(tmp_path / "part" / "checkpoint-2" / "masters.safetensors")
    assert {name.split(".")[1] for name in masters} == {"encoder", "decoder", "cross"}
    shutil.rmtree(tmp_path / "part" / "checkpoint-4")
    base = tiny_base(architecture)
    resumed = train({**recipe, "output_dir": str(tmp_path / "part")}, base=base, resume=True).model
    kept = resumed.detach("default").tensors()
    assert not any(name.startswith("source") for name in kept)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in whole.adapter("default").tensors().items())
    loaded = load_adapter(tmp_path / "part", base).tensors()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in loaded.items())


@pytest.mark.parametrize("start", [{}, {"prefix_init": "random"}, {"prefix_init": "text", "prefix_init_text": "abc"}])
@torch.no_grad()
def test_the_network_starts_at_the_start_that_is_asked_for(
    method: str, start: dict[str, object], tiny_base: Callable[..., Base]
) -> None:
    direct = create_adapter(tiny_base(), method, **start).tensors()
    baked = create_adapter(tiny_base(), method, prefix_projection=True, **start).baked().tensors()
    assert baked.keys() == direct.keys()
    for name, tensor in direct.items():
        torch.testing.assert_close(baked[name], tensor, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_more_tokens_than_the_network_is_wide_are_met_as_well_as_can_be(tiny_base: Callable[..., Base]) -> None:
    options = {"num_virtual_tokens": 30, "prefix_projection": True, "encoder_hidden_size": 10}
    adapter = create_adapter(tiny_base(), "prefix_tuning", **options)
    own = {name.removeprefix("source.decoder."): tensor.double() for name, tensor in adapter.tensors().items()}
    hidden = torch.tanh(own["embedding"] @ own["inner.weight"].T + own["inner.bias"])
    direct, baked = (
        torch.cat([t.transpose(0, 1).flatten(1) for t in tensors.values()], 1).double()
        for tensors in (
            create_adapter(tiny_base(), "prefix_tuning", num_virtual_tokens=30).tensors(),
            adapter.baked().tensors(),
        )
    )
    # The error of a least-squares fit is orthogonal to what it was fitted with.
    assert (baked - direct).abs().max() > 0.1
    torch.testing.assert_close(
        hidden.T @ (baked - direct), torch.zeros(10, direct.shape[1]).double(), atol=1e-4, rtol=0
    )


def test_the_network_learns_what_backpropagation_through_the_base_says(
    method: str, tiny_base: Callable[..., Base], token_ids: Callable[..., torch.Tensor]
) -> None:
    ids, base = token_ids(2, 7), tiny_base()
    options = {"num_virtual_tokens": 4, "prefix_projection": True, "encoder_hidden_size": 6, "prefix_dropout": 0.0}
    adapter = create_adapter(base, method, **options)
    adapter.set_trainable(True)
    direct = adapter.baked()
    direct.set_trainable(True)
    AdaptedModel(base, [direct])(input_ids=ids).logits.square().sum().backward()
    wanted = {name: p.grad for name, p in direct.named_masters()}

    base = tiny_base()
    AdaptedModel(base, [adapter])(input_ids=ids).logits.square().sum().backward()

    bias = dict(adapter.named_masters())["source.decoder.outer.bias"].grad
    assert bias is not None
    parts = [
        wanted[f"{a.path}.{name}"].sum(1).flatten() for a in base.structure.attentions for name in ("keys", "values")
    ]
    torch.testing.assert_close(bias, torch.cat(parts), rtol=1e-4, atol=1e-4)
    assert all(p.grad is not None and p.grad.any() for p in adapter.parameters())


@pytest.mark.parametrize("projection", [False, True])
def test_dropout_drops_in_training_only(
    method: str, projection: bool, tiny_base: Callable[..., Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_base()
    adapter = create_adapter(base, method, prefix_projection=projection, prefix_dropout=0.5)
    model = AdaptedModel(base, [adapter])
    ids = torch.tensor([[5, 6, 7]])
    seen = []
    dropout = F.dropout

    def noted(x: torch.Tensor, p: float = 0.5, training: bool = True) -> torch.Tensor:
        dropped = dropout(x, p, training)
        if training:
            seen.append(((dropped == 0).float().mean().item(), (dropped[dropped != 0] / x[dropped != 0]).mean().item()))
        return dropped

    monkeypatch.setattr("petune.methods.keys_values.F.dropout", noted)
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)
        assert not seen
        model.train()
        assert not torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)
    shares, factors = zip(*seen, strict=True)
    assert sum(shares) / len(shares) == pytest.approx(0.5, abs=0.05)
    assert all(factor == pytest.approx(2) for factor in factors)
    before = {name: tensor.clone() for name, tensor in adapter.eval().baked().tensors().items()}
    trained = adapter.train().baked()
    assert trained.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.tensors().items())


@torch.no_grad()
def test_a_random_start_is_like_the_base_s_own_keys_and_values(method: str, tiny_base: Callable[..., Base]) -> None:
    base = tiny_base()
    drawn = create_adapter(base, method, num_virtual_tokens=2000, prefix_init="random").tensors()
    ids = torch.randperm(288, generator=torch.Generator().manual_seed(42))[None, :64]
    cache = base.model(input_ids=ids, use_cache=True).past_key_values
    for layer, attention in enumerate(base.structure.attentions):
        for name, real in (("keys", cache.layers[layer].keys[0]), ("values", cache.layers[layer].values[0])):
            start, real = drawn[f"{attention.path}.{name}"], real[:, 1:]  # the first token is like no other
            assert start.shape == (2, 2000, 8)
            torch.testing.assert_close(start.std(1), real.std(1), rtol=0.1, atol=0)
            assert ((start.mean(1) - real.mean(1)).abs() < 0.1 * real.std(1)).all()
            assert len(start[0].unique(dim=0)) == 2000


def test_rates_differ_with_and_without_a_network(method: str, tiny_base: Callable[..., Base]) -> None:
    direct, computed = (create_adapter(tiny_base(), method, prefix_projection=p) for p in (False, True))
    assert direct.method.rate(direct.config) == direct.method.learning_rate
    assert computed.method.rate(computed.config) < direct.method.rate(direct.config)
