"""Damaged, tampered and misplaced adapter folders are refused before their first use."""

import json
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.checkpoint import peft
from petune.checkpoint.folder import load_adapter, save_adapter
from petune.checkpoint.made_for import base_of
from petune.checkpoint.manifest import FILE_NAME, file_digest, read_manifest, tensors_digest
from petune.errors import AdapterFormatError, ArtifactError, BaseMismatchError, ConfigError

Tensors = dict[str, torch.Tensor]
Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def rewrite(folder: Path, change: Callable[[Tensors], None], *, as_peft: bool) -> None:
    """Change the tensors; ``as_peft`` removes the manifest, else it vouches for the changed file."""
    path = folder / peft.WEIGHTS_FILE
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    manifest = folder / FILE_NAME
    if as_peft:
        manifest.unlink()
    else:
        content = json.loads(manifest.read_text())
        content["files"][peft.WEIGHTS_FILE] = file_digest(path)
        content["digest"] = tensors_digest(tensors)
        manifest.write_text(json.dumps(content))


def rename_all(tensors: Tensors) -> None:
    for name in list(tensors):
        tensors[name.replace("self_attn", "attention")] = tensors.pop(name)


def drop_half(tensors: Tensors) -> None:
    for name in list(tensors)[::2]:
        del tensors[name]


def set_value(value: float) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[Q][1, 2] = value

    return change


BAD_TENSORS: dict[str, tuple[Callable[[Tensors], Any], str]] = {
    "missing": (lambda t: t.pop(Q), r"1 problems\): 'model\.layers\.0\.self_attn\.q_proj\.lora_A' is missing"),
    "half": (drop_half, r"6 problems\).*is missing"),
    "extra": (
        lambda t: t.update({Q.replace("layers.0", "layers.9"): t[Q].clone()}),
        r"'model\.layers\.9\.self_attn\.q_proj\.lora_A' is unknown\. Did you mean",
    ),
    "renamed": (rename_all, r"24 problems\).*is missing"),
    "rank": (lambda t: t.update({Q: t[Q][:3].clone()}), r"has shape \[3, 32\], expected \[4, 32\]"),
    "shape": (lambda t: t.update({Q: t[Q].t().contiguous()}), r"has shape \[32, 4\], expected \[4, 32\]"),
    "nan": (set_value(float("nan")), r"q_proj\.lora_A' holds NaN or infinite values"),
    "infinite": (set_value(float("inf")), r"q_proj\.lora_A' holds NaN or infinite values"),
    "integers": (lambda t: t.update({Q: t[Q].to(torch.int32)}), r"is of type torch\.int32, expected floating-point"),
    "dora": (
        lambda t: t.update({Q.replace("lora_A", "lora_magnitude_vector"): torch.ones(32)}),
        r"lora_magnitude_vector\.weight' is none that petune's LoRA has",
    ),
}


@pytest.mark.parametrize("as_peft", [True, False], ids=["peft", "petune"])
@pytest.mark.parametrize("case", BAD_TENSORS)
def test_tensors_that_do_not_fit_are_refused_by_name(
    case: str, as_peft: bool, saved: Path, tiny_base: Callable[..., Base]
) -> None:
    change, message = BAD_TENSORS[case]
    rewrite(saved, change, as_peft=as_peft)
    with pytest.raises(AdapterFormatError, match=message):
        load_adapter(saved, tiny_base())


def test_every_flipped_bit_is_found(saved: Path, tiny_base: Callable[..., Base]) -> None:
    base = tiny_base()
    generator = random.Random(0)
    for file in (peft.WEIGHTS_FILE, peft.CONFIG_FILE, "tokenizer.json"):
        content = (saved / file).read_bytes()
        for _ in range(20):
            damaged = bytearray(content)
            damaged[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
            (saved / file).write_bytes(damaged)
            with pytest.raises(AdapterFormatError, match=rf"{file} is not the file that was saved"):
                load_adapter(saved, base)
        (saved / file).write_bytes(content[: generator.randrange(len(content))])
        with pytest.raises(AdapterFormatError, match=rf"{file} is not the file that was saved"):
            load_adapter(saved, base)
        (saved / file).write_bytes(content)
    assert load_adapter(saved, base).num_parameters() > 0


@pytest.mark.parametrize("method", ["lora", "bottleneck", "full"])
def test_tensors_are_compared_with_the_digest_of_their_values(
    method: str, tmp_path: Path, tiny_base: Callable[..., Base]
) -> None:
    base = tiny_base()
    folder = save_adapter(AdaptedModel(base, [create_adapter(base, method)]), tmp_path / "adapter")
    (path,) = folder.glob("*.safetensors")
    tensors = load_file(path)
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, path)
    content = json.loads((folder / FILE_NAME).read_text())
    content["files"][path.name] = file_digest(path)  # as somebody would who wants the change to pass
    (folder / FILE_NAME).write_text(json.dumps(content))
    with pytest.raises(AdapterFormatError, match=rf"not hold the tensors that were saved: {path.name} has digest sha"):
        load_adapter(folder, tiny_base())
    (folder / FILE_NAME).unlink()
    if method == "lora":  # a folder of HF PEFT has no digest to compare with
        assert load_adapter(folder, tiny_base()).num_parameters() > 0


def test_files_may_be_links_as_in_the_hubs_cache(saved: Path, tmp_path: Path, tiny_base: Callable[..., Base]) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for file in saved.iterdir():
        blob = file.rename(blobs / file_digest(file))
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", blob.name))
    loaded = load_adapter(snapshot, tiny_base())
    assert loaded.num_parameters() > 0
    blob = (snapshot / peft.WEIGHTS_FILE).resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    with pytest.raises(AdapterFormatError, match=rf"{peft.WEIGHTS_FILE} is not the file that was saved"):
        load_adapter(snapshot, tiny_base())
    blob.unlink()
    with pytest.raises(AdapterFormatError, match=rf"lost its file {peft.WEIGHTS_FILE}"):
        load_adapter(snapshot, tiny_base())


def test_lost_files_are_named(saved: Path, tiny_base: Callable[..., Base]) -> None:
    base = tiny_base()
    for file in (peft.WEIGHTS_FILE, peft.CONFIG_FILE, "tokenizer.json"):
        content = (saved / file).read_bytes()
        (saved / file).unlink()
        with pytest.raises(AdapterFormatError, match=rf"lost its file {file}; restore it"):
            load_adapter(saved, base)
        (saved / file).write_bytes(content)


def test_truncated_weights_of_peft_are_refused(saved: Path, tiny_base: Callable[..., Base]) -> None:
    (saved / FILE_NAME).unlink()
    path = saved / peft.WEIGHTS_FILE
    content, base = path.read_bytes(), tiny_base()
    for length in (0, 7, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(AdapterFormatError, match=r"adapter_model\.safetensors is not a readable safetensors file"):
            load_adapter(saved, base)


def test_only_a_pickle_is_never_opened(saved: Path, tiny_base: Callable[..., Base]) -> None:
    (saved / FILE_NAME).unlink()
    (saved / peft.WEIGHTS_FILE).rename(saved / "adapter_model.bin")
    for check in (lambda: load_adapter(saved, tiny_base()), lambda: base_of(saved)):
        with pytest.raises(AdapterFormatError, match=r"holds only adapter_model\.bin, a pickle.*convert it once"):
            check()


def test_no_adapter_at_all(tmp_path: Path, tiny_base: Callable[..., Base]) -> None:
    with pytest.raises(AdapterFormatError, match=r"there is no folder .*nowhere; give the folder that training wrote"):
        load_adapter(tmp_path / "nowhere", tiny_base())
    neither = r"is no adapter: it has neither petune\.json nor adapter_model\.safetensors; "
    with pytest.raises(AdapterFormatError, match=neither + "give the folder that training wrote"):
        load_adapter(tmp_path, tiny_base())
    (tmp_path / peft.CONFIG_FILE).write_text("{}")  # what the hub's cache has of a repository with a pickle
    with pytest.raises(AdapterFormatError, match=neither + r"where its repository has adapter_model\.bin.* convert it"):
        load_adapter(tmp_path, tiny_base())
    for name in ("german", "french"):
        (tmp_path / name).mkdir()
        (tmp_path / name / peft.WEIGHTS_FILE).touch()
    with pytest.raises(AdapterFormatError, match=neither + "it holds french, german: give one of these folders"):
        load_adapter(tmp_path, tiny_base())


MISMATCHES: dict[str, tuple[dict[str, Any], str]] = {
    "fewer layers": ({"num_hidden_layers": 2}, "layers: 3 expected, 2 found"),
    "more layers": ({"num_hidden_layers": 5}, "layers: 3 expected, 5 found"),
    "hidden size": ({"hidden_size": 64}, "hidden size: 32 expected, 64 found"),
    "vocabulary": ({"vocab_size": 300}, "vocabulary size: 288 expected, 300 found"),
    "other architecture": ({"architecture": "gpt2"}, "model type: llama expected, gpt2 found"),
    "other setting": ({"rope_theta": 1.0, "attention_bias": True}, "expected"),
}


@pytest.mark.parametrize("case", MISMATCHES)
def test_another_base_is_refused(case: str, saved: Path, tiny_base: Callable[..., Base]) -> None:
    changes, message = MISMATCHES[case]
    with pytest.raises(BaseMismatchError, match=rf"made for the base 'tiny-llama'.*{message}.*--allow-base-mismatch"):
        load_adapter(saved, tiny_base(**changes))


def test_other_weights_of_the_same_shape_are_refused(
    tmp_path: Path, tiny_base: Callable[..., Base], caplog: pytest.LogCaptureFixture
) -> None:
    bases = []
    for seed in (1, 2):
        made, folder = tiny_base(seed=seed), tmp_path / f"base-{seed}"
        made.model.save_pretrained(folder)
        files = sorted(folder.glob("*.safetensors"))
        bases.append(Base(made.model, made.tokenizer, name=str(folder), weight_files=files))
    first, second = bases
    folder = save_adapter(AdaptedModel(first, [create_adapter(first, "lora")]), tmp_path / "adapter")
    load_adapter(folder, first)
    with pytest.raises(BaseMismatchError, match=r"weights differ: expected .*, got "):
        load_adapter(folder, second)
    with caplog.at_level(logging.WARNING, logger="petune"):
        load_adapter(folder, second, allow_base_mismatch=True)
    assert "used anyway, as asked" in caplog.text


def test_peft_adapter_on_a_base_of_another_depth_is_refused(saved: Path, tiny_base: Callable[..., Base]) -> None:
    (saved / FILE_NAME).unlink()
    with pytest.raises(AdapterFormatError, match=r"is unknown"):
        load_adapter(saved, tiny_base(num_hidden_layers=2))
    with pytest.raises(AdapterFormatError, match=r"is missing"):
        load_adapter(saved, tiny_base(num_hidden_layers=4))
    with pytest.raises(AdapterFormatError, match=r"does not fit this base: .*'q_proj' matches no linear"):
        load_adapter(saved, tiny_base("gpt2"))


def test_full_folder_reads_only_the_files_it_was_saved_with(
    tmp_path: Path, tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]
) -> None:
    base = tiny_base()
    model = AdaptedModel(base, [randomise(create_adapter(base, "full"))])
    folder = save_adapter(model, tmp_path / "adapter")
    stale = {name: torch.zeros_like(tensor) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(stale, folder / "zzz.safetensors")
    loaded = load_adapter(folder, tiny_base()).tensors()
    assert all(torch.equal(loaded[n], t) for n, t in model.adapter("default").tensors().items())


@torch.no_grad()
def test_a_full_folder_is_a_plain_model_where_an_adapter_of_peft_was(
    saved: Path, tiny_base: Callable[..., Base], randomise: Callable[..., Adapter], token_ids: Callable[..., Any]
) -> None:
    base = tiny_base()
    model = AdaptedModel(base, [randomise(create_adapter(base, "full"))])
    save_adapter(model, saved)
    assert not (saved / peft.CONFIG_FILE).exists()
    ids = token_ids(2, 6)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(saved)(ids).logits, model(input_ids=ids).logits)


def test_saving_names_which(tiny_base: Callable[..., Base], tmp_path: Path) -> None:
    base = tiny_base()
    model = AdaptedModel(base)
    with pytest.raises(ConfigError, match="name the adapter to save; attached: none"):
        save_adapter(model, tmp_path)
    for name in ("a", "b.1"):
        model.attach(create_adapter(base, "lora", name=name))
    with pytest.raises(ConfigError, match=r"name the adapter to save; attached: a, b\.1"):
        save_adapter(model, tmp_path)
    folder = save_adapter(model, tmp_path / "b", name="b.1", training={"steps": 3})
    manifest = read_manifest(folder)
    assert manifest is not None
    assert manifest.training == {"steps": 3}
    assert manifest.method == "lora"
    assert base_of(folder) == ("tiny-llama", None)


def test_malformed_fingerprint_is_an_artifact_error(saved: Path, tiny_base: Callable[..., Base]) -> None:
    content = json.loads((saved / FILE_NAME).read_text())
    content["base"]["fingerprint"] = {"weights": 3}
    (saved / FILE_NAME).write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="fingerprint is malformed"):
        load_adapter(saved, tiny_base())
