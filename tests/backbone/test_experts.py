"""Parts of a block that see some of the tokens each."""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from petune.backbone.structure import Structure

GROUPED = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
}
T5 = {"d_model": 32, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4, "d_kv": 8, "d_ff": 48}


@pytest.mark.parametrize(
    ("architecture", "settings", "expected"),
    [
        ("llama", GROUPED, ()),
        ("t5", T5, ()),
        ("mixtral", {**GROUPED, "num_local_experts": 4}, ("layers.0.mlp.experts", "layers.1.mlp.experts")),
        (
            "switch_transformers",
            {**T5, "num_experts": 4, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
            ("encoder.block.1.layer.1.mlp.experts", "decoder.block.1.layer.2.mlp.experts"),
        ),
        (
            "xmod",
            {**GROUPED, "languages": ["en_XX", "de_DE"]},
            tuple(f"encoder.layer.{i}.output.adapter_modules" for i in (0, 1)),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_of_real_models(architecture: str, settings: dict[str, object], expected: tuple[str, ...]) -> None:
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.for_model(architecture, vocab_size=64, pad_token_id=0, **settings))
    found = Structure(model).experts
    assert found == expected


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(4, 4)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.shared_experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.mlp = nn.ModuleDict({"fc": nn.Linear(4, 4), "act": nn.GELU()})


def test_lists_named_for_experts_and_no_others() -> None:
    model = nn.Module()
    model.layers = nn.ModuleList([Block()])
    assert Structure(model).experts == ("layers.0.experts",)
