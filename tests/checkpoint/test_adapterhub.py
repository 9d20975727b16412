"""AdapterHub's folders, made by its own library (adapterhub/make_fixtures.py), compute here what they compute there."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

import petune
from petune.adapted_model import AdaptedModel
from petune.backbone.base import Base
from petune.backbone.heads import auto_class, set_labels
from petune.backbone.task_names import TaskName
from petune.checkpoint.adapterhub import LAYOUTS
from petune.checkpoint.folder import load_adapter, save_adapter
from petune.checkpoint.made_for import base_of, task_of
from petune.errors import AdapterFormatError, BaseMismatchError
from petune.methods import names

FIXTURES = Path(__file__).parent / "adapterhub"
HEADS = {"classes", "classes_pooled", "tags", "spans", "classes_deep"}
FOLDERS = sorted(path.parent.relative_to(FIXTURES) for path in FIXTURES.glob("*/*/adapter_config.json"))
PLAIN = [folder for folder in FOLDERS if folder.name not in HEADS and folder != Path("t5/prefix")]


Change = Callable[[dict[str, Any]], Any]


def base_for(architecture: str, task: TaskName | None = None, labels: tuple[str, ...] = ()) -> Base:
    folder = FIXTURES / architecture
    config = AutoConfig.from_pretrained(folder)
    if labels:
        set_labels(config, labels)
    language_model: TaskName = "masked_lm" if architecture in ("bert", "roberta") else "causal_lm"
    language_model = "seq2seq_lm" if config.is_encoder_decoder else language_model
    model = auto_class(task or language_model).from_pretrained(folder, config=config)
    return Base.from_model(model, name=f"tiny-{architecture}")


def expected(folder: Path) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """Return the inputs, the logits without the adapter, and those with it."""
    tensors = load_file(FIXTURES / folder.parent / "outputs.safetensors")
    inputs = {name: tensor for name, tensor in tensors.items() if not name.startswith("logits")}
    return inputs, tensors["logits"], tensors[f"logits.{folder.name}"]


def real(inputs: dict[str, torch.Tensor], logits: torch.Tensor) -> torch.Tensor:
    """Return the logits of real tokens; those at padding mean nothing."""
    if "decoder_input_ids" in inputs or logits.ndim == 2:
        return logits
    return logits[inputs["attention_mask"].bool()]


def test_the_fixtures_are_all_there() -> None:
    assert len(FOLDERS) == 44
    assert LAYOUTS.keys() <= set(names())
    assert not [path for path in FIXTURES.rglob("*") if path.suffix in {".bin", ".pt", ".pkl"}]


@pytest.mark.parametrize("folder", PLAIN, ids=str)
@torch.no_grad()
def test_outputs_are_those_of_the_library(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = base_for(folder.parent.name)
    inputs, bare, wanted = expected(folder)
    torch.testing.assert_close(real(inputs, base.model(**inputs).logits), real(inputs, bare), rtol=1e-4, atol=1e-4)
    with caplog.at_level(logging.WARNING, logger="petune"):
        adapter = load_adapter(FIXTURES / folder, base)
    assert "its base is unverified" in caplog.text
    ours = AdaptedModel(base, [adapter])(**inputs).logits
    assert (real(inputs, wanted) - real(inputs, bare)).abs().max() > 0.05
    torch.testing.assert_close(real(inputs, ours), real(inputs, wanted), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("folder", "task", "labels"),
    [
        ("bert/classes", "sequence_classification", ("low", "mid", "high")),
        ("bert/classes_pooled", "sequence_classification", ("LABEL_0", "LABEL_1")),
        ("bert/tags", "token_classification", ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3")),
        ("bert/spans", "question_answering", ()),
        ("roberta/classes", "sequence_classification", ("LABEL_0", "LABEL_1", "LABEL_2")),
    ],
)
@torch.no_grad()
def test_heads_come_along(folder: str, task: TaskName, labels: tuple[str, ...]) -> None:
    path = Path(folder)
    assert task_of(FIXTURES / path) == (task, labels)
    base = base_for(path.parent.name, task, labels)
    inputs, _, wanted = expected(path)
    output = AdaptedModel(base, [load_adapter(FIXTURES / path, base)])(**inputs)
    logits = output.logits if labels else torch.stack([output.start_logits, output.end_logits], -1)
    torch.testing.assert_close(real(inputs, logits), real(inputs, wanted), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_folder_is_all_that_load_needs_besides_the_base(tmp_path: Path, tiny_tokenizer: Any) -> None:
    shutil.copytree(
        FIXTURES / "bert", tmp_path / "base", ignore=lambda *_: [name for name in HEADS if name != "classes"]
    )
    tiny_tokenizer.save_pretrained(tmp_path / "base")
    model = petune.load(FIXTURES / "bert" / "classes", base=tmp_path / "base", dtype="float32")
    inputs, _, wanted = expected(Path("bert/classes"))
    assert (model.base.task, model.base.labels) == ("sequence_classification", ("low", "mid", "high"))
    torch.testing.assert_close(model(**inputs).logits, wanted, rtol=1e-4, atol=1e-4)
    assert base_of(FIXTURES / "bert" / "classes") == ("tiny-bert", None)


@pytest.mark.parametrize("folder", ["bert/pfeiffer", "llama/prefix", "gpt2/lora_all", "bart/cross", "llama/parallel"])
@torch.no_grad()
def test_saved_by_us_they_stay_the_same(folder: str, tmp_path: Path) -> None:
    path = Path(folder)
    base = base_for(path.parent.name)
    save_adapter(AdaptedModel(base, [load_adapter(FIXTURES / path, base)]), tmp_path)
    if path.name == "prefix":  # PEFT would move the positions of real tokens
        assert not (tmp_path / "adapter_config.json").exists()
    base = base_for(path.parent.name)
    inputs, _, wanted = expected(path)
    ours = AdaptedModel(base, [load_adapter(tmp_path, base)])(**inputs).logits
    torch.testing.assert_close(real(inputs, ours), real(inputs, wanted), rtol=1e-4, atol=1e-4)


def test_positions_are_part_of_a_prefix() -> None:
    base = base_for("llama")
    model = AdaptedModel(base, [load_adapter(FIXTURES / "llama" / "prefix_flat", base)])
    assert model.virtual_tokens == 0
    assert model.adapter("default").config.model_dump()["shift_positions"] is False


def damaged(
    tmp_path: Path, folder: str, config: Change | None, tensors: Change | None, *, file: str = "adapter"
) -> Path:
    """Return a copy of a folder with its config and its tensors changed."""
    copy = tmp_path / "copy"
    shutil.copytree(FIXTURES / folder, copy)
    settings = copy / ("adapter_config.json" if file == "adapter" else "head_config.json")
    weights = copy / ("adapter.safetensors" if file == "adapter" else "model_head.safetensors")
    if config is not None:
        content = json.loads(settings.read_text())
        config(content)
        settings.write_text(json.dumps(content))
    if tensors is not None:
        read = load_file(weights)
        tensors(read)
        save_file(read, weights)
    return copy


def setting(**changes: Any) -> Change:
    return lambda content: content["config"].update(changes)


CONFIGS: dict[str, tuple[str, Change, str]] = {
    "unknown": (
        "bert/houlsby",
        setting(reduction_factr=2),
        r"'config\.reduction_factr' is not known.*'reduction_factor'",
    ),
    "unknown-prefix": ("llama/prefix", setting(depth=2), r"'config\.depth' is not known"),
    "unknown-lora": ("llama/lora", setting(rank=2), r"'config\.rank' is not known"),
    "note": ("llama/lora", lambda c: c.update(author="me"), "'author' is not known.*a note of yours, take it out"),
    "missing": ("bert/houlsby", lambda c: c["config"].pop("scaling"), r"'config\.scaling' is missing"),
    "nothing": ("bert/houlsby", lambda c: c.update(config=None), "'config' is None, expected the method's settings"),
    "no-name": ("bert/houlsby", lambda c: c.update(name=7), "'name' is 7, expected what the adapter is called"),
    "old": (
        "bert/houlsby",
        lambda c: c.pop("version"),
        "'version' is None, expected .* adapters 1.x and save it again",
    ),
    "older": ("bert/houlsby", lambda c: c.update(version="3.2.1"), "'version' is '3.2.1', expected"),
    "union": (
        "bert/houlsby",
        setting(architecture="union"),
        r"architecture is 'union'; petune reads none \(a bott.*lora",
    ),
    "gating": ("bert/houlsby", setting(use_gating=True), "use_gating=True is nothing that petune computes"),
    "own-norm": ("bert/houlsby", setting(ln_after=True), "ln_after=True is nothing"),
    "invertible": ("bert/houlsby", setting(inv_adapter="nice"), "inv_adapter='nice' is nothing"),
    "hypercomplex": ("bert/houlsby", setting(phm_layer=True), "phm_layer=True is nothing"),
    "no-norm-after": ("bert/houlsby", setting(original_ln_after=False), "original_ln_after=False is nothing"),
    "later-residual": (
        "bert/pfeiffer",
        setting(residual_before_ln="post_add"),
        "residual_before_ln='post_add' is nothing",
    ),
    "factors": (
        "bert/houlsby",
        setting(reduction_factor={"default": 2}),
        "reduction_factor is .*one number for all layers",
    ),
    "tiny-factor": ("bert/houlsby", setting(reduction_factor=1e-9), "reduction_factor"),
    "nan-factor": ("bert/houlsby", setting(reduction_factor=float("nan")), "reduction_factor"),
    "activation": ("bert/houlsby", setting(non_linearity="gleu"), "non_linearity is 'gleu'.*'gelu'"),
    "scaling": ("bert/houlsby", setting(scaling=float("inf")), "'scaling' is inf"),
    "scaling-word": ("bert/houlsby", setting(scaling="large"), "'scaling' is 'large'"),
    "flag": ("bert/houlsby", setting(mh_adapter="yes"), r"config\.mh_adapter is 'yes', expected true or false"),
    "beside-attention": (
        "bert/parallel",
        setting(mh_adapter=True),
        "is_parallel with adapters at attentions is nothing",
    ),
    "blocks": ("bert/houlsby", setting(leave_out=[7]), r"leave_out is \[7\], expected .* blocks 0 to 1"),
    "blocks-kind": ("bert/lora", setting(leave_out="1"), "leave_out is '1', expected a list of block numbers"),
    "tokens": (
        "llama/prefix",
        setting(prefix_length=10**9),
        "prefix_length is 1000000000, expected a number from 1 to 4,096",
    ),
    "tokens-word": ("llama/prefix", setting(prefix_length="3"), "prefix_length is '3', expected a number"),
    "network-activation": ("llama/prefix", setting(non_linearity="tanhh"), "non_linearity is 'tanhh'.*'tanh'"),
    "layers": ("llama/prefix", setting(leave_out=[0]), r"leave_out=\[0\] is nothing"),
    "one-sided": (
        "bart/prefix",
        setting(cross_prefix=False),
        "cross_prefix is not true; petune's prefixes are at every",
    ),
    "rank": ("llama/lora", setting(r=10**9), "config.r is 1000000000, expected a number from 1 to 65,536"),
    "alpha": ("llama/lora", setting(alpha=1e300), "'lora_alpha' is 1e\\+300"),
    "alpha-word": ("llama/lora", setting(alpha="r"), "config.alpha is 'r', expected a number"),
    "scale-mode": ("llama/lora", setting(composition_mode="scale"), "composition_mode='scale' is nothing"),
    "dora": ("llama/lora", setting(use_dora=True), "use_dora=True is nothing"),
    "matrices": ("llama/lora", setting(attn_matrices=["q", "o"]), "attn_matrices is .*, expected a list of q, k and v"),
    "more-matrices": (
        "llama/lora",
        setting(attn_matrices=["q", "k", "v"]),
        "block 0 has 2 updates of role attention, .* 3",
    ),
    "more-places": ("llama/lora", setting(output_lora=True), "block 0 has 0 updates of role mlp, .* asks for 1"),
    "fewer-places": ("bert/houlsby", setting(output_adapter=False), "tensor 'encoder.layer.0.output.* is none that"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_settings_that_petune_does_not_compute_are_refused_by_name(case: str, tmp_path: Path) -> None:
    folder, change, message = CONFIGS[case]
    with pytest.raises(AdapterFormatError, match=message):
        load_adapter(damaged(tmp_path, folder, change, None), base_for(Path(folder).parent.name))


def first(tensors: dict[str, torch.Tensor], end: str) -> str:
    return next(name for name in sorted(tensors) if name.endswith(end))


def renamed(old: str, new: str) -> Change:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.replace(old, new)] = tensors.pop(name)

    return change


def reshaped(end: str) -> Change:
    return lambda tensors: tensors.update({(name := first(tensors, end)): tensors[name][:-1].clone()})


TENSORS: dict[str, tuple[str, Change, str]] = {
    "missing": ("bert/houlsby", lambda t: t.pop(first(t, "adapter_up.bias")), r"1 problems\): '.*up_bias' is missing"),
    "missing-lora": ("llama/lora", lambda t: t.pop(first(t, "lora_B")), r"1 problems\): '.*lora_B' is missing"),
    "pair": (
        "llama/lora",
        lambda t: [t.pop(first(t, f"q_proj.loras.task.lora_{x}")) for x in "AB"],
        "block 0 has 1 updates",
    ),
    "renamed": ("bert/houlsby", renamed(".task.", ".other."), "tensor '.*other.*' is none that"),
    "elsewhere": ("bert/houlsby", renamed("layer.1", "layer.9"), r"tensor 'encoder\.layer\.9.*' is none that"),
    "elsewhere-lora": ("llama/lora", renamed("layers.1", "layers.9"), r"tensor 'layers\.9.*' is none that"),
    "elsewhere-prefix": (
        "llama/prefix",
        renamed("self_prefix", "cross_prefix"),
        "prefixes for cross_prefix, .* self_prefix",
    ),
    "part": ("bert/houlsby", renamed("adapter_up", "gate"), "tensor '.*gate.*' is none that"),
    "no-scale": ("bert/learned_scale", lambda t: t.pop(first(t, "scaling")), "the learned scaling of '.*' is missing"),
    "scale": (
        "bert/left_out",
        reshaped("scaling"),
        r"the learned scaling of '.*' has shape \[7\], expected \[1\] or \[8\]",
    ),
    "shape": ("bert/houlsby", reshaped("adapter_down.0.weight"), r"down_weight' has shape \[1, 8\], expected \[2, 8\]"),
    "rank": ("llama/lora", reshaped("lora_A"), r"lora_A' has shape \[1, 8\], expected \[2, 8\]"),
    "fused": ("gpt2/lora", reshaped("lora_B"), r"lora_B' has shape \[15, 2\], expected 16 rows"),
    "length": ("llama/prefix_flat", reshaped("control_trans"), "'self_prefix' has 47 numbers, this base needs 48"),
    "network": ("llama/prefix", reshaped("trans.0.bias"), "network of 'self_prefix' does not fit together: wte.weight"),
    "half-network": ("llama/prefix", lambda t: t.pop(first(t, "wte.weight")), "'self_prefix' has control_trans.0.bias"),
    "nan": ("bert/houlsby", lambda t: t[first(t, "up.bias")].fill_(float("nan")), "up_bias' holds NaN"),
    "nan-network": ("llama/prefix", lambda t: t[first(t, "wte.weight")].fill_(float("nan")), "holds NaN"),
    "infinite": ("llama/lora", lambda t: t[first(t, "lora_A")].fill_(float("inf")), "lora_A' holds NaN or infinite"),
    "integers": (
        "llama/lora",
        lambda t: t.update({(n := first(t, "lora_A")): t[n].int()}),
        "lora_A' is of type torch.int32",
    ),
    "empty": ("llama/prefix", lambda t: t.clear(), "holds prefixes for nothing, this base needs self_prefix"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_do_not_fit_are_refused_by_name(case: str, tmp_path: Path) -> None:
    folder, change, message = TENSORS[case]
    with pytest.raises(AdapterFormatError, match=message):
        load_adapter(damaged(tmp_path, folder, None, change), base_for(Path(folder).parent.name))


def test_a_scale_from_before_it_was_applied(tmp_path: Path) -> None:
    folder = damaged(tmp_path, "llama/lora", lambda content: content.update(version="adapters.1.0.1"), None)
    config = load_adapter(folder, base_for("llama")).config.model_dump()
    assert (config["r"], config["lora_alpha"]) == (2, 2)


def test_a_prefix_where_the_library_counts_distances_its_own_way() -> None:
    with pytest.raises(
        AdapterFormatError, match="prefixes on a t5 count distances between tokens in a way that petune"
    ):
        load_adapter(FIXTURES / "t5" / "prefix", base_for("t5"))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["pytorch_adapter.bin"], r"holds pytorch_adapter\.bin, a pickle.*torch\.load\(.*'adapter\.safetensors'\)"),
        (["adapter_setup.json", "adapter.safetensors"], "is a setup of several adapters .*one --adapter each"),
        (["adapter_fusion_config.json"], "a fusion of adapters .*which petune does not compute"),
        (["head_config.json"], r"has no adapter\.safetensors; save the adapter with use_safetensors=True"),
    ],
)
def test_folders_of_other_kinds_say_what_to_do(files: list[str], message: str, tmp_path: Path) -> None:
    for file in files:
        (tmp_path / file).write_text("{}")
    for read in (base_of, task_of, lambda folder: load_adapter(folder, base_for("bert"))):
        with pytest.raises(AdapterFormatError, match=message):
            read(tmp_path)


def test_a_base_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        BaseMismatchError, match=r"a base of model_type bert, and 'tiny-roberta' has roberta.*tiny-bert"
    ):
        load_adapter(FIXTURES / "bert" / "houlsby", base_for("roberta"))
    other = damaged(tmp_path, "bert/houlsby", lambda content: content.update(hidden_size=768), None)
    with pytest.raises(BaseMismatchError, match="hidden_size 768, and 'tiny-bert' has 8"):
        load_adapter(other, base_for("bert"))
    assert load_adapter(other, base_for("bert"), allow_base_mismatch=True).num_parameters()
    nameless = damaged(tmp_path / "nameless", "bert/houlsby", lambda content: content.update(model_name=""), None)
    with pytest.raises(AdapterFormatError, match="names no base model; give it with --model"):
        base_of(nameless)


def test_a_head_is_never_dropped_in_silence(tmp_path: Path) -> None:
    with pytest.raises(
        BaseMismatchError, match=r"holds a head for sequence_classification \(low, mid, high\), .*masked_lm"
    ):
        load_adapter(FIXTURES / "bert" / "classes", base_for("bert"))
    with pytest.raises(AdapterFormatError, match="holds no head, and the base was loaded for sequence_classification"):
        load_adapter(FIXTURES / "bert" / "lora", base_for("bert", "sequence_classification", ("a", "b")))
    with pytest.raises(
        AdapterFormatError, match=r"layers=3.* is not what transformers computes for a bert.*with_head=False"
    ):
        task_of(FIXTURES / "bert" / "classes_deep")
    other = damaged(tmp_path, "llama/lora", None, lambda t: t["lm_head.weight"].add_(1e-2), file="head")
    with pytest.raises(AdapterFormatError, match=r"'lm_head\.weight' is not the base's own"):
        load_adapter(other, base_for("llama"))


BAD_HEADS: dict[str, tuple[str, Change | None, Change | None, str]] = {
    "unknown": ("bert/tags", setting(temperature=2), None, r"'config\.temperature' is not known"),
    "kind": (
        "bert/tags",
        setting(head_type="multiple_choice"),
        None,
        "head_type is 'multiple_choice'; petune takes class",
    ),
    "class": (
        "llama/lora",
        lambda c: c.update(model_class="LlamaOther"),
        None,
        "model_class is 'LlamaOther', whose head",
    ),
    "one": ("bert/tags", setting(num_labels=1), None, "num_labels is 1; a head that petune has"),
    "labels": (
        "bert/classes",
        setting(label2id={"a": 0, "b": 5, "c": 1}),
        None,
        "label2id is .*the numbers of 3 classes",
    ),
    "tensor": ("bert/tags", None, renamed("weight", "scale"), r"tensor 'heads\.task\.1\.scale' is none that a head"),
    "no-tensor": ("bert/tags", None, lambda t: t.pop("heads.task.1.bias"), "'classifier.own.bias' is missing"),
    "nan": ("bert/tags", None, lambda t: t["heads.task.1.bias"].fill_(float("nan")), "classifier.own.bias' holds NaN"),
}


@pytest.mark.parametrize("case", BAD_HEADS)
def test_bad_heads(case: str, tmp_path: Path) -> None:
    folder, config, tensors, message = BAD_HEADS[case]
    copy = damaged(tmp_path, folder, config, tensors, file="head")
    architecture = Path(folder).parent.name
    with pytest.raises(AdapterFormatError, match=message):
        load_adapter(copy, base_for(architecture, *task_of(copy)))


def test_a_pickled_head_is_refused(tmp_path: Path) -> None:
    copy = damaged(tmp_path, "bert/tags", None, None)
    (copy / "model_head.safetensors").rename(copy / "pytorch_model_head.bin")
    with pytest.raises(
        AdapterFormatError, match=r"holds pytorch_model_head\.bin, a pickle.*'model_head\.safetensors'\)"
    ):
        task_of(copy)
