from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from petune.backbone import kept_blocks as module
from petune.backbone.base import load_base
from petune.backbone.gguf import plain_folder
from petune.backbone.gguf_blocks import GGUF_FORMATS
from petune.backbone.kept_blocks import kept_blocks
from petune.backbone.packed_weight import is_packed
from petune.errors import BaseModelError


@pytest.mark.parametrize("kind", GGUF_FORMATS)
def test_packed_base_is_the_unpacked_one(kind: str, packed_gguf: Callable[[str], Path]) -> None:
    path = packed_gguf(kind)
    packed = load_base(path, dtype="float32", device="cpu", quantization="gguf")
    plain = load_base(path, dtype="float32", device="cpu")
    found = {name for name, parameter in packed.model.named_parameters() if is_packed(parameter)}
    in_blocks = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"}
    in_blocks |= {"mlp.gate_proj", "mlp.up_proj"}  # rows of down_proj are no whole blocks
    assert found == {"model.embed_tokens.weight", *(f"model.layers.0.{name}.weight" for name in in_blocks)}
    for ours, theirs in zip(packed.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(ours.detach(), theirs)
    ids = torch.tensor([[0, 3, 5, 2]])
    assert torch.equal(packed.model(ids).logits, plain.model(ids).logits)
    assert packed.model.lm_head.weight is packed.model.model.embed_tokens.weight
    assert packed.fingerprint == plain.fingerprint


def test_blocks_are_looked_for_once(packed_gguf: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = packed_gguf("Q8_0")
    folder = plain_folder(path)
    first = {name: blocks for name, _, blocks in kept_blocks(path, folder)}
    monkeypatch.setattr(module, "_write", lambda *_: pytest.fail("looked for twice"))
    again = {name: blocks for name, _, blocks in kept_blocks(path, folder)}
    assert again.keys() == first.keys()
    assert all(torch.equal(blocks, first[name]) for name, blocks in again.items())


def test_nothing_to_keep(gguf: tuple[Path, dict[str, np.ndarray]]) -> None:
    with pytest.raises(BaseModelError, match=r"tiny.gguf holds F16, and no weight of a kind .* use quantization 8bit"):
        load_base(gguf[0], device="cpu", quantization="gguf")
