"""Contract 7: caches, beams, gradient checkpointing and a bf16 base."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.backbone.sublayers import norms
from petune.evaluation.generate import generating
from petune.sites.head import LabelLoss
from petune.training.activations import counted
from petune.training.recomputation import gradient_checkpointing, parts_of, recomputed

GREEDY = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}


def padded(token_ids: Callable[..., torch.Tensor]) -> dict[str, torch.Tensor]:
    ids = token_ids(3, 8)
    mask = torch.ones_like(ids)
    ids[1, :3], mask[1, :3] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


def test_cached_generation_equals_uncached(
    base: Base, method: str, trained: Callable[..., AdaptedModel], token_ids: Callable[..., torch.Tensor]
) -> None:
    model, inputs = trained(base, method), padded(token_ids)
    cached = model.model.generate(**inputs, **GREEDY, use_cache=True)
    assert cached.shape == (3, 14)
    assert torch.equal(cached, model.model.generate(**inputs, **GREEDY, use_cache=False))


def test_generation_made_fast_writes_the_tokens_of_plain_generation(
    base: Base, method: str, trained: Callable[..., AdaptedModel], token_ids: Callable[..., torch.Tensor]
) -> None:
    model, inputs = trained(base, method), padded(token_ids)
    options = {**GREEDY, "return_dict_in_generate": True, "output_logits": True}
    plain = model.model.generate(**inputs, **options)
    with generating(model, 64):
        fast = model.model.generate(**inputs, **options)
    before = inputs["input_ids"].shape[1]
    for row, (ours, theirs) in enumerate(zip(fast.sequences[:, before:], plain.sequences[:, before:], strict=True)):
        for step, (token, other) in enumerate(zip(ours, theirs, strict=True)):
            logits = plain.logits[step][row]
            torch.testing.assert_close(fast.logits[step][row], logits, rtol=1e-4, atol=1e-4)
            if token != other:  # two tokens may be as likely, up to the order of a CPU's sums; the texts part there
                assert (logits[token] - logits[other]).abs() < 1e-4
                break
    assert torch.equal(model.model.generate(**inputs, **GREEDY), plain.sequences)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_routed_generation_equals_separate_generation(
    base: Base,
    sharing_method: str,
    num_beams: int,
    trained: Callable[..., AdaptedModel],
    randomise: Callable[..., Adapter],
    token_ids: Callable[..., torch.Tensor],
) -> None:
    model, inputs = trained(base, sharing_method), padded(token_ids)
    model.attach(randomise(create_adapter(base, sharing_method, name="other"), seed=5), active=False)
    options = {**GREEDY, "num_beams": num_beams}
    rows: tuple[str | None, ...] = ("default", "other", None)
    with model.route(rows):
        mixed = model.model.generate(**inputs, **options)
    for i, row in enumerate(rows):
        model.activate(*([row] if row else []))
        alone = model.model.generate(**{k: v[i : i + 1] for k, v in inputs.items()}, **options)
        assert torch.equal(alone[0], mixed[i])


def test_gradient_checkpointing_gives_the_same_gradients(
    base: Base, method: str, trained: Callable[..., AdaptedModel], token_ids: Callable[..., torch.Tensor]
) -> None:
    model, ids = trained(base, method), token_ids(2, 9)
    adapter = model.adapter("default")
    adapter.set_trainable(True)
    calls: list[None] = []
    # The first module of the last block: no method runs it on its own account, and gradients pass that block.
    in_last_block = [n.path for n in norms(base.model, base.structure) if n.path.startswith(base.structure.blocks[-1])]
    inside_a_block = base.model.get_submodule(in_last_block[0])
    inside_a_block.register_forward_pre_hook(lambda module, inputs: calls.append(None))
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(3)  # for dropout
        model.train()
        with gradient_checkpointing(model.model) if checkpointing else nullcontext():
            LabelLoss(model.model, model.plugged_into)({"input_ids": ids}, ids, model).sum().backward()
            of_the_source = adapter.source is not None  # which runs the base on its own, and never recomputes
            assert len(calls) == of_the_source + (2 if checkpointing else 1)
            calls.clear()
            if checkpointing:
                with torch.inference_mode():  # an evaluation in the middle of a run
                    model(input_ids=ids)
                calls.clear()
        found.append({name: p.grad for name, p in adapter.named_parameters()})
        for parameter in adapter.parameters():
            parameter.grad = None
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-5, atol=1e-6)
    model.detach("default")
    assert not base.model(input_ids=ids).logits.requires_grad


def test_parts_computed_again_give_the_same_gradients(
    base: Base, method: str, trained: Callable[..., AdaptedModel], token_ids: Callable[..., torch.Tensor]
) -> None:
    model, ids = trained(base, method), token_ids(2, 9)
    adapter = model.adapter("default")
    adapter.set_trainable(True)
    parts = parts_of(model.model, base.structure)
    lower = [part for part in parts if part.kind == "block"][:-1]
    cheap = [part for part in parts if part.kind != "block"]
    before = {name: dict(module.__dict__) for name, module in base.model.named_modules()}
    found = []
    for again in ([], cheap, lower, parts):
        torch.manual_seed(3)  # for dropout
        model.train()
        with recomputed(model.model, again), counted(model.parameters()) as count:
            LabelLoss(model.model, model.plugged_into)({"input_ids": ids}, ids, model).sum().backward()
        found.append((count.kept, {name: p.grad for name, p in adapter.named_parameters()}))
        for parameter in adapter.parameters():
            parameter.grad = None
    plain, *others = found
    for _, gradients in others:
        for name, gradient in plain[1].items():
            torch.testing.assert_close(gradients[name], gradient, rtol=1e-5, atol=1e-6)
    assert others[-1][0] < plain[0]
    model.eval()
    assert {name: module.__dict__.keys() for name, module in base.model.named_modules()} == {
        name: attributes.keys() for name, attributes in before.items()
    }


def test_bf16_base_trains_fp32_masters_without_autocast(
    architecture: str,
    method: str,
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
    token_ids: Callable[..., torch.Tensor],
) -> None:
    ids = token_ids(4, 12)
    gradients = {}
    for dtype in (torch.float32, torch.bfloat16):
        base = tiny_base(architecture, dtype=dtype)
        adapter = create_adapter(base, method)
        adapter.set_trainable(True)
        model = AdaptedModel(base, [randomise(adapter, scale=0.02)])
        loss = LabelLoss(model.model, model.plugged_into)({"input_ids": ids}, ids, model).sum()
        loss.backward()
        assert loss.dtype == torch.float32
        assert all(p.dtype == torch.float32 and p.grad is not None for p in adapter.parameters())
        assert model(input_ids=ids).logits.dtype == dtype
        gradients[dtype] = torch.cat([p.grad.flatten() for p in adapter.parameters() if p.grad is not None])
    cosine = torch.cosine_similarity(gradients[torch.float32], gradients[torch.bfloat16], dim=0)
    assert cosine > 0.98
