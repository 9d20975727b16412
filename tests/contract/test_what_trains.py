"""Contract 2: the adapter's parameters train, each of them, and nothing else does."""

from collections.abc import Callable

import torch

from petune.adapted_model import AdaptedModel
from petune.adapter import create_adapter
from petune.backbone.base import Base


def sgd_step(model: AdaptedModel, ids: torch.Tensor, rate: float = 0.5) -> None:
    logits = model(input_ids=ids).logits[:, :-1]
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
    (adapter,) = (model.adapter(name) for name in model.adapters)
    with torch.no_grad():
        for parameter in adapter.parameters():
            if parameter.grad is not None:
                parameter -= rate * parameter.grad
                parameter.grad = None
    adapter.refresh()


def test_every_parameter_moves_and_the_base_does_not(
    base: Base, method: str, token_ids: Callable[..., torch.Tensor]
) -> None:
    # All positions and tokens occur, so that each row of the embeddings has a gradient.
    ids = torch.cat([token_ids(12, 127), torch.arange(12)[:, None] + torch.arange(0, 288, 12)[:12]], dim=1)[:, :128]
    ids = torch.cat([ids, torch.arange(288).view(-1, 96).repeat(1, 2)[:, :128]])
    frozen = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    adapter = create_adapter(base, method)
    ids = ids[:, : 128 - adapter.config.model_dump().get("num_virtual_tokens", 0)]
    adapter.set_trainable(True)
    model = AdaptedModel(base, [adapter])
    with torch.inference_mode():  # a validation pass first: nothing it made may stay
        model(input_ids=ids[:2])
    start = {name: tensor.clone() for name, tensor in adapter.tensors().items()}
    model.train()

    for _ in range(2):
        sgd_step(model, ids)

    still = [name for name, tensor in adapter.tensors().items() if torch.equal(tensor, start[name])]
    assert not still
    model.detach("default")
    now = base.model.state_dict()
    assert all(torch.equal(now[name], tensor) for name, tensor in frozen.items())
    assert not any(p.requires_grad or p.grad is not None for p in base.model.parameters())


def test_only_the_adapter_counts_as_trainable(base: Base, method: str) -> None:
    adapter = create_adapter(base, method)
    adapter.set_trainable(True)
    model = AdaptedModel(base, [adapter])
    assert all(p.requires_grad for p in adapter.parameters())
    own = sum(p.numel() for p in adapter.parameters())
    assert adapter.num_parameters() == own
    assert model.parameter_summary().startswith(f"trainable params: {own:,} ||")
    adapter.set_trainable(False)
    assert not any(p.requires_grad for p in model.parameters())


def test_frozen_before_attaching_stays_frozen(architecture: str, method: str, tiny_base: Callable[..., Base]) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        base = tiny_base(architecture, dtype=dtype)
        adapter = create_adapter(base, method)
        adapter.set_trainable(False)
        model = AdaptedModel(base, [adapter])
        assert not model(input_ids=torch.tensor([[5, 6, 7]])).logits.requires_grad
