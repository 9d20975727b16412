"""A base whose weights are kept as blocks is the base with the numbers that the blocks mean, for every method."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from petune import methods
from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.backbone.packed_weight import is_packed, whole
from petune.backbone.quantization import pack
from petune.backbone.rounded_blocks import ROUNDINGS
from petune.checkpoint.folder import load_adapter, save_adapter
from petune.checkpoint.merged import save_merged
from petune.errors import ConfigError
from petune.sites.head import LabelLoss
from petune.sites.output import OutputSlot

MERGEABLE = [name for name in methods.names() if "output" in methods.get(name).sites]
EIGHT_BITS = ROUNDINGS["8bit"]
WIDE = {"intermediate_size": 64}
Twins = tuple[Base, Base]


@pytest.fixture
def twins(architecture: str, tiny_base: Callable[..., Base]) -> Twins:
    """A base whose linears and embeddings are all packed, and one with the same numbers, unpacked."""
    packed, plain = (tiny_base(architecture, **({} if architecture == "gpt2" else WIDE)) for _ in range(2))
    hosts = [path for path, m in packed.model.named_modules() if isinstance(m, nn.Linear | Conv1D | nn.Embedding)]
    weights = {f"{path}.weight": packed.model.get_submodule(path).get_parameter("weight") for path in hosts}
    count = pack(packed.model, [(path, EIGHT_BITS.form, EIGHT_BITS.blocks(w)) for path, w in weights.items()])
    assert count == len(weights) >= 10
    for parameter, numbers in zip(plain.model.parameters(), packed.model.parameters(), strict=True):
        parameter.data.copy_(whole(numbers))
    return packed, plain


@pytest.fixture
def agree(
    twins: Twins, randomise: Callable[..., Adapter], token_ids: Callable[..., torch.Tensor]
) -> Callable[..., None]:
    """Check that an adapter starts alike, gives alike and learns alike on both: ``agree("lora", r=4)``."""

    def check(method: str, **options: object) -> None:
        ids, results = token_ids(3, 9), []
        for base in twins:
            adapter = create_adapter(base, method, seed=1, **options)
            start = {name: tensor.clone() for name, tensor in adapter.tensors().items()}
            adapter.set_trainable(True)
            model = AdaptedModel(base, [randomise(adapter)])
            logits = model(input_ids=ids).logits.detach()
            LabelLoss(model.model, model.plugged_into)({"input_ids": ids}, ids, model).sum().backward()
            gradients = {name: p.grad for name, p in adapter.named_parameters()}
            assert None not in gradients.values()
            results.append((logits, start, gradients))
            model.detach("default")
        (logits, start, gradients), (expected, their_start, their_gradients) = results
        assert torch.equal(logits, expected)
        assert all(torch.equal(tensor, their_start[name]) for name, tensor in start.items())
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, their_gradients[name], rtol=1e-5, atol=1e-7)
        assert any(is_packed(parameter) for parameter in twins[0].model.parameters())

    return check


def test_outputs_and_gradients_are_those_of_the_unpacked_base(agree: Callable[..., None], method: str) -> None:
    agree(method)


READS_WEIGHTS = {
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa", "r": 4},
    "head learned whole": {"modules_to_save": ("lm_head",)},
    "rows of tokens": {"trainable_token_indices": {"embed_tokens": (5, 9)}},
}


@pytest.mark.parametrize("architecture", ["llama"])
@pytest.mark.parametrize("name", READS_WEIGHTS)
def test_what_reads_weights_reads_the_numbers_of_the_blocks(name: str, agree: Callable[..., None]) -> None:
    agree("lora", **READS_WEIGHTS[name])


@torch.no_grad()
def test_an_adapter_goes_from_one_to_the_other_through_its_files(
    twins: Twins,
    method: str,
    tmp_path: Path,
    trained: Callable[..., AdaptedModel],
    token_ids: Callable[..., torch.Tensor],
) -> None:
    ids = token_ids(2, 8)
    for here, there in (twins, twins[::-1]):
        model = trained(here, method)
        live = model(input_ids=ids).logits
        folder = save_adapter(model, tmp_path / f"of_{id(here)}")
        model.detach("default")
        other = AdaptedModel(there, [load_adapter(folder, there, name="default")])
        assert torch.equal(other(input_ids=ids).logits, live)
        other.detach("default")


@pytest.mark.parametrize("mergeable", MERGEABLE)
@torch.no_grad()
def test_merged_folder_is_that_of_the_unpacked_base(
    twins: Twins,
    mergeable: str,
    tmp_path: Path,
    trained: Callable[..., AdaptedModel],
    token_ids: Callable[..., torch.Tensor],
) -> None:
    ids, outputs = token_ids(2, 8), []
    packed, plain = twins
    before = dict(packed.model.named_parameters())
    for base in (packed, plain):
        model = trained(base, mergeable)
        slots = model.adapter("default").slots.values()
        if any(type(slot).merged_weight is OutputSlot.merged_weight for slot in slots if isinstance(slot, OutputSlot)):
            with pytest.raises(ConfigError, match="cannot be merged"):
                model.merge("default")
            return
        merged = AutoModelForCausalLM.from_pretrained(save_merged(model, tmp_path / f"of_{id(base)}"))
        outputs.append(merged(input_ids=ids).logits)
    assert torch.equal(outputs[0], outputs[1])
    assert all(parameter is before[path] for path, parameter in packed.model.named_parameters())


@torch.no_grad()
def test_what_full_fine_tuning_learned_can_stay_for_good(
    twins: Twins, trained: Callable[..., AdaptedModel], token_ids: Callable[..., torch.Tensor]
) -> None:
    packed, _ = twins
    model, ids = trained(packed, "full"), token_ids(2, 8)
    expected = model(input_ids=ids).logits
    model.merge("default")
    assert [adapter.name for adapter in model.keep_merged()] == ["default"]
    assert torch.equal(packed.model(input_ids=ids).logits, expected)
    assert not any(is_packed(parameter) for parameter in packed.model.parameters())
