"""The rotary embedding under the name by which a model's file calls it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.gpt_neox import modeling_gpt_neox
from transformers.models.llama import modeling_llama
from transformers.models.qwen3 import modeling_qwen3

from petune.sites.rotation import own_rotation


@pytest.mark.parametrize(
    ("architecture", "source"), [("llama", modeling_llama), ("qwen3", modeling_qwen3)], ids=["llama", "qwen3"]
)
def test_the_same_function_is_taken_over_and_given_back(
    architecture: str, source: "type[modeling_llama]", tiny_model: Callable[..., PreTrainedModel]
) -> None:
    own = source.apply_rotary_pos_emb
    with own_rotation(tiny_model(architecture)):
        assert source.apply_rotary_pos_emb is not own
        with own_rotation(tiny_model(architecture)):
            pass
        assert source.apply_rotary_pos_emb is not own
    assert source.apply_rotary_pos_emb is own


@pytest.mark.parametrize("architecture", ["gemma", "glm", "gpt_neox", "phi", "gptj", "gpt2", "cohere"])
def test_outputs_stay(
    architecture: str, tiny_model: Callable[..., PreTrainedModel], token_ids: Callable[..., Tensor]
) -> None:
    model, ids = tiny_model(architecture), token_ids(2, 7)
    expected = model(input_ids=ids).logits
    with own_rotation(model):
        torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-5)


def test_a_call_that_says_more_goes_to_the_file_s_own(tiny_model: Callable[..., PreTrainedModel]) -> None:
    query, key, angles = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 2, 8), torch.randn(2, 3, 8)
    expected = modeling_llama.apply_rotary_pos_emb(query, key, angles, angles, unsqueeze_dim=2)
    with own_rotation(tiny_model("llama")):
        found = modeling_llama.apply_rotary_pos_emb(query, key, angles, angles, unsqueeze_dim=2)
        short = modeling_gpt_neox.apply_rotary_pos_emb
    assert short is modeling_gpt_neox.apply_rotary_pos_emb
    for ours, own in zip(found, expected, strict=True):
        assert torch.equal(ours, own)


def test_blocks_that_end_in_another_order_leave_the_file_s_own(tiny_model: Callable[..., PreTrainedModel]) -> None:
    own = modeling_llama.apply_rotary_pos_emb
    first, second = own_rotation(tiny_model("llama")), own_rotation(tiny_model("llama"))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert modeling_llama.apply_rotary_pos_emb is own
