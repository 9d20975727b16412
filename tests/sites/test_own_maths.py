"""Our own maths in place of a model's, on models of many kinds."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from petune.kernels.dropout import dropout
from petune.sites.own_maths import own_maths
from petune.training.recomputation import gradient_checkpointing

NORMS_AND_GATES = {
    "llama": (7, 3),
    "qwen3": (9, 2),  # a norm of the queries and one of the keys in each block
    "gemma": (5, 2),
    "gemma2": (9, 2),
    "t5": (12, 0),
    "phi": (0, 0),
    "gpt2": (0, 0),
    "bert": (0, 0),
}


def taken_over(model: nn.Module) -> list[str]:
    return [type(module).__name__ for module in model.modules() if "forward" in module.__dict__]


def losses_and_gradients(model: PreTrainedModel, ids: Tensor) -> list[Tensor]:
    decoder = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    logits = model(input_ids=ids, **decoder).logits
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [logits, *torch.autograd.grad(logits.sin().sum(), parameters, allow_unused=True, materialize_grads=True)]


@pytest.mark.parametrize("architecture", NORMS_AND_GATES)
def test_what_it_is_is_measured_and_results_stay(
    architecture: str, tiny_model: Callable[..., PreTrainedModel], token_ids: Callable[..., Tensor]
) -> None:
    model, ids = tiny_model(architecture), token_ids(2, 7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    model.requires_grad_(True)
    expected = losses_and_gradients(model, ids)

    with own_maths(model):
        norms, gates = NORMS_AND_GATES[architecture]
        names = [name for name in taken_over(model) if name != "Dropout"]
        assert (sum("Norm" in name for name in names), sum("Norm" not in name for name in names)) == (norms, gates)
        found = losses_and_gradients(model, ids)

    for ours, own in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-5 * max(1.0, float(own.detach().abs().max())))
    assert not taken_over(model)
    assert torch.equal(losses_and_gradients(model, ids)[0], expected[0])


def test_bfloat16_is_about_as_near_to_the_truth(
    tiny_model: Callable[..., PreTrainedModel], token_ids: Callable[..., Tensor]
) -> None:
    model, ids = tiny_model("llama"), token_ids(4, 9)
    truth = model(input_ids=ids).logits
    model.to(torch.bfloat16)
    distances = []
    for context in (nullcontext(), own_maths(model)):
        with context:
            distances.append((model(input_ids=ids).logits - truth).norm())
    assert distances[1] <= 1.05 * distances[0]


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_gradients_the_model_computes_as_it_does_outside(
    architecture: str,
    dtype: torch.dtype,
    tiny_model: Callable[..., PreTrainedModel],
    token_ids: Callable[..., Tensor],
) -> None:
    model, ids = tiny_model(architecture).to(dtype), token_ids(4, 9)
    with torch.no_grad():
        expected = model(input_ids=ids).logits
    with own_maths(model):
        with torch.no_grad():
            assert torch.equal(model(input_ids=ids).logits, expected)
        with torch.inference_mode():
            assert torch.equal(model(input_ids=ids).logits, expected)
        assert taken_over(model)


def test_recomputed_activations_and_generation_agree(
    tiny_model: Callable[..., PreTrainedModel], token_ids: Callable[..., Tensor]
) -> None:
    model, ids = tiny_model("llama"), token_ids(2, 5)
    expected = model.generate(ids, max_new_tokens=6, do_sample=False)
    model.requires_grad_(True).train()
    with own_maths(model):
        plain = losses_and_gradients(model, ids)
        with gradient_checkpointing(model):
            recomputed = losses_and_gradients(model, ids)
        for ours, own in zip(recomputed, plain, strict=True):
            torch.testing.assert_close(ours, own)
        model.eval()
        assert torch.equal(model.generate(ids, max_new_tokens=6, do_sample=False), expected)


def test_what_is_no_such_layer_stays_as_it_is(tiny_model: Callable[..., PreTrainedModel]) -> None:
    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.eps = 1e-6
            self.weight = nn.Parameter(torch.ones(8))

        def forward(self, x: Tensor) -> Tensor:
            return 2 * self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)

    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.up, self.down = (nn.Linear(8, 8, bias=False) for _ in range(3))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.down(self.gate(x).tanh() * self.up(x)), x

    model = tiny_model("gpt2")
    model.doubled, model.split = Doubled(), Split()
    with own_maths(model):
        assert not taken_over(model)


def test_a_function_that_somebody_else_put_there_stays(tiny_model: Callable[..., PreTrainedModel]) -> None:
    model = tiny_model("llama")
    norm = model.get_submodule("model.norm")
    norm.forward = theirs = norm.forward
    with own_maths(model):
        assert norm.__dict__["forward"] is theirs
    assert norm.__dict__["forward"] is theirs


def test_an_error_inside_leaves_nothing_behind(tiny_model: Callable[..., PreTrainedModel]) -> None:
    model = tiny_model("llama")
    maths = own_maths(model)
    maths.__enter__()
    assert taken_over(model)
    assert not maths.__exit__(KeyError, KeyError(), None)
    assert not taken_over(model)


def test_a_layer_called_with_more_than_x_runs_its_own_forward(tiny_model: Callable[..., PreTrainedModel]) -> None:
    class GatedNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.eps = 1e-6
            self.weight = nn.Parameter(torch.ones(8))

        def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
            x = x if gate is None else x * gate
            return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.up, self.down = (nn.Linear(8, 8, bias=False) for _ in range(3))

        def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
            return self.down(nn.functional.silu(self.gate(x)) * self.up(x)) * scale

    model, x = tiny_model("gpt2"), torch.randn(2, 8)
    model.norm, model.scaled = GatedNorm(), Scaled()
    expected = [model.norm(x, x), model.norm(x=x), model.scaled(x, 2.0), model.scaled(x, scale=3.0)]
    with own_maths(model):
        assert taken_over(model) == ["GatedNorm", "Scaled"]
        found = [model.norm(x, x), model.norm(x=x), model.scaled(x, 2.0), model.scaled(x, scale=3.0)]
    for ours, own in zip(found, expected, strict=True):
        assert torch.equal(ours, own)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_that_small_inputs_cannot_tell_apart(
    dtype: torch.dtype, tiny_model: Callable[..., PreTrainedModel]
) -> None:
    model = tiny_model("gemma").to(dtype)  # the approximation by tanh
    first, second = (layer.mlp for layer in model.model.layers)
    with torch.no_grad():
        first.down_proj.weight.zero_()  # fits every activation
        for linear in (second.gate_proj, second.up_proj, second.down_proj):
            linear.weight.mul_(0.2)
    x = 8 * torch.randn(64, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = second(x)
    with own_maths(model):
        assert "forward" not in first.__dict__
        assert torch.equal(second(x), expected)


def test_dropout_draws_our_numbers_in_training_alone(
    tiny_model: Callable[..., PreTrainedModel], token_ids: Callable[..., Tensor]
) -> None:
    model, ids = tiny_model("bert", hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.0), token_ids(2, 7)
    expected = model(input_ids=ids).logits
    embedded = model.bert.embeddings.LayerNorm.register_forward_hook(lambda *given: seen.append(given[2]))
    dropped = model.bert.embeddings.register_forward_hook(lambda *given: seen.append(given[2]))
    seen: list[Tensor] = []
    with own_maths(model):
        torch.testing.assert_close(model(input_ids=ids).logits, expected)
        model.train()
        seen.clear()
        torch.manual_seed(4)
        model(input_ids=ids)
    embedded.remove()
    dropped.remove()
    torch.manual_seed(4)
    torch.testing.assert_close(seen[1], dropout(seen[0], 0.5))
    assert not taken_over(model)
