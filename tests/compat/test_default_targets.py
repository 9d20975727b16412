"""The linears that are adapted by default: those of PEFT's table, read off the structure."""

from typing import Any

import pytest
import torch
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFTS
from transformers import AutoConfig, AutoModel

from petune.backbone.structure import Structure
from petune.compat.default_targets import default_targets
from petune.errors import TargetError

# Of PEFT's table: remote code, models of pictures, and a model without attention are left out.
TEXT_MODELS = sorted(
    PEFTS.keys() - {"blip-2", "btlm", "chatglm", "gemma4", "llama4", "RefinedWeb", "RefinedWebModel", "rwkv", "rwkv7"}
)


def structure_of(kind: str, **settings: Any) -> Structure:
    config = AutoConfig.for_model(kind, **settings)
    config.num_hidden_layers = 2
    with torch.device("meta"):
        return Structure(AutoModel.from_config(config))


def test_the_models_were_found() -> None:
    assert len(TEXT_MODELS) >= 28


@pytest.mark.parametrize("kind", TEXT_MODELS)
@pytest.mark.filterwarnings("ignore")
def test_as_in_peft(kind: str) -> None:
    assert set(default_targets(structure_of(kind), kind)) == set(PEFTS[kind])


@pytest.mark.parametrize(
    ("kind", "expected"), [("distilbert", ("q_lin", "v_lin")), ("phi3", ("qkv_proj",)), ("olmo", ("q_proj", "v_proj"))]
)
def test_where_peft_has_no_default(kind: str, expected: tuple[str, ...]) -> None:
    assert default_targets(structure_of(kind, pad_token_id=0), kind) == expected


def test_attention_of_another_shape_asks_for_names() -> None:
    with pytest.raises(
        TargetError, match=r"type deepseek_v3 has no query and value projections.*target_modules.*q_a_proj"
    ):
        default_targets(structure_of("deepseek_v3"), "deepseek_v3")
