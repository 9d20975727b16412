import hashlib
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from petune.backbone import gguf as module
from petune.backbone.base import load_base
from petune.backbone.gguf import plain_folder
from petune.errors import ArtifactError, BaseModelError, ResourceError

Gguf = tuple[Path, dict[str, np.ndarray]]


def test_unpacked_weights_are_exact(gguf: Gguf) -> None:
    path, tensors = gguf
    weights = AutoModelForCausalLM.from_pretrained(plain_folder(path)).state_dict()
    for theirs, ours in (
        ("token_embd", "model.embed_tokens"),
        ("output_norm", "model.norm"),
        ("blk.0.ffn_gate", "model.layers.0.mlp.gate_proj"),
        ("blk.0.ffn_down", "model.layers.0.mlp.down_proj"),
        ("blk.0.attn_v", "model.layers.0.self_attn.v_proj"),
        ("blk.0.attn_output", "model.layers.0.self_attn.o_proj"),
    ):
        torch.testing.assert_close(
            weights[f"{ours}.weight"], torch.from_numpy(tensors[f"{theirs}.weight"]).float(), rtol=0, atol=0
        )
    assert "quantization_config" not in AutoConfig.from_pretrained(plain_folder(path)).to_dict()


def test_converted_once_and_again_when_the_file_changes(gguf: Gguf, monkeypatch: pytest.MonkeyPatch) -> None:
    path = gguf[0]
    folder = plain_folder(path)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_convert", lambda *_: pytest.fail("converted twice"))
        assert plain_folder(path) == folder
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert plain_folder(path) != folder


def test_interrupted_conversion_is_never_used(gguf: Gguf, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:

        def stop(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(module.AutoTokenizer, "from_pretrained", stop)
        with pytest.raises(KeyboardInterrupt):
            plain_folder(gguf[0])
    base = load_base(gguf[0], device="cpu")
    assert base.tokenizer("abc d")["input_ids"] == [5, 4, 6, 7]


def test_nothing_is_printed(gguf: Gguf, capfd: pytest.CaptureFixture[str]) -> None:
    load_base(gguf[0], device="cpu")
    assert capfd.readouterr() == ("", "")


def test_base_of_a_gguf_file(gguf: Gguf) -> None:
    base = load_base(str(gguf[0]), dtype="float32", device="cpu")
    assert base.name == str(gguf[0])
    assert base.fingerprint.weights == f"sha256:{hashlib.sha256(gguf[0].read_bytes()).hexdigest()}"


def test_too_little_space(gguf: Gguf, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")(10, 9, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ResourceError, match=r"unpacking tiny.gguf to float32 needs 36,224 bytes in .*, and 1 are free"):
        plain_folder(gguf[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"PK\3\4", "is not a GGUF file"), (b"GGUF" + b"\7" * 20, "is damaged or cut short")],
)
def test_not_a_sound_gguf_file(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        plain_folder(tmp_path / "bad.gguf")


def test_cut_short(gguf: Gguf) -> None:
    gguf[0].write_bytes(gguf[0].read_bytes()[:-1000])
    with pytest.raises(ArtifactError, match=r"is damaged or cut short .* download it again"):
        plain_folder(gguf[0])


def test_unknown_architecture(gguf: Gguf) -> None:
    gguf[0].write_bytes(gguf[0].read_bytes().replace(b"llama", b"ilama"))
    with pytest.raises(BaseModelError, match=r"tiny.gguf cannot be loaded: .*ilama"):
        plain_folder(gguf[0])
