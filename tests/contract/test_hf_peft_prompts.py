"""Contract 8 for virtual tokens and prefixes: HF PEFT's folders load here and ours load there, with the same logits.

Where PEFT itself computes something else than its method's formula, the test says so and holds us to the formula.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.backbone.task_names import TaskName
from petune.checkpoint.folder import load_adapter, save_adapter
from petune.errors import AdapterFormatError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file in tiny:UserWarning"),
]
P, T = 4, 9
PROJECTION = {"prefix_projection": True, "encoder_hidden_size": 6}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "prompt tuning": ("prompt_tuning", {}),
    "P-tuning with an MLP": ("p_tuning", {}),
    "P-tuning with an LSTM": ("p_tuning", {"encoder_reparameterization_type": "LSTM"}),
    "prefix tuning": ("prefix_tuning", {}),
    "prefix tuning with a projection": ("prefix_tuning", PROJECTION),
    "P-tuning v2": ("p_tuning_v2", {}),
    "P-tuning v2 with a projection": ("p_tuning_v2", PROJECTION),
}
CONFIGS: dict[str, Callable[..., peft.PeftConfig]] = {
    "prompt_tuning": peft.PromptTuningConfig,
    "p_tuning": peft.PromptEncoderConfig,
    "prefix_tuning": peft.PrefixTuningConfig,
    "p_tuning_v2": peft.PrefixTuningConfig,
}
TASK_TYPES = {
    "causal_lm": "CAUSAL_LM",
    "masked_lm": "FEATURE_EXTRACTION",
    "sequence_classification": "SEQ_CLS",
    "token_classification": "TOKEN_CLS",
    "question_answering": "QUESTION_ANS",
}
HEADS: tuple[TaskName, ...] = ("sequence_classification", "token_classification", "question_answering")


@pytest.fixture
def batch(token_ids: Callable[..., torch.Tensor]) -> dict[str, torch.Tensor]:
    """Three rows, the second of them padded on the right."""
    ids, mask = token_ids(3, T), torch.ones(3, T, dtype=torch.int64)
    ids[1, 6:] = mask[1, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def of_text(output: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the logits of the rows, or those at their own tokens."""
    logits = output.logits if "logits" in output else torch.stack([output.start_logits, output.end_logits], -1)
    return logits if logits.ndim == 2 else logits[:, -T:][batch["attention_mask"].bool()]


def ours(model: AdaptedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return of_text(model(**model.insert_virtual_tokens(batch)), batch)


def trained_by_peft(model: PreTrainedModel, method: str, task: str, **settings: Any) -> peft.PeftModel:
    torch.manual_seed(3)
    settings = {**settings, **({"encoder_hidden_size": 16} if method == "p_tuning" else {})}
    config = CONFIGS[method](task_type=TASK_TYPES[task], num_virtual_tokens=P, **settings)
    return peft.get_peft_model(model, config).eval()


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bert", "roberta"])
@pytest.mark.parametrize("kind", KINDS)
def test_folders_go_both_ways(
    kind: str,
    architecture: str,
    batch: dict[str, torch.Tensor],
    tmp_path: Path,
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
) -> None:
    method, settings = KINDS[kind]
    base = tiny_base(architecture)
    bare = of_text(base.model(**batch), batch)
    model = AdaptedModel(base, [randomise(create_adapter(base, method, num_virtual_tokens=P, **settings))])
    live = ours(model, batch)
    assert (live - bare).abs().max() > 0.1
    folder = save_adapter(model, tmp_path / "ours")
    assert json.loads((folder / "adapter_config.json").read_text())["task_type"] == TASK_TYPES[base.task]
    theirs = peft.PeftModel.from_pretrained(tiny_base(architecture).model, str(folder)).eval()
    torch.testing.assert_close(of_text(theirs(**batch), batch), live, rtol=1e-4, atol=1e-4)

    theirs = trained_by_peft(tiny_base(architecture).model, method, base.task, **settings)
    theirs.save_pretrained(tmp_path / "theirs")
    again = tiny_base(architecture)
    model = AdaptedModel(again, [load_adapter(tmp_path / "theirs", again)])
    torch.testing.assert_close(ours(model, batch), of_text(theirs(**batch), batch), rtol=1e-4, atol=1e-4)


def with_head(tiny_base: Callable[..., Base], architecture: str, task: TaskName) -> Callable[[], Base]:
    """Return what makes the same base with a head for ``task`` each time it is called."""
    return partial(tiny_base, architecture, task=task, labels=() if task == "question_answering" else ("a", "b", "c"))


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["bert", "roberta"])
@pytest.mark.parametrize("task", HEADS)
@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning", "prefix_tuning"])
def test_encoders_with_heads(
    method: str,
    task: TaskName,
    architecture: str,
    batch: dict[str, torch.Tensor],
    tmp_path: Path,
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
) -> None:
    fresh = with_head(tiny_base, architecture, task)
    base = fresh()
    model = AdaptedModel(base, [randomise(create_adapter(base, method, num_virtual_tokens=P))])
    live = ours(model, batch)
    theirs = peft.PeftModel.from_pretrained(fresh().model, str(save_adapter(model, tmp_path / "ours"))).eval()
    torch.testing.assert_close(of_text(theirs(**batch), batch), live, rtol=1e-4, atol=1e-4)
    theirs.save_pretrained(tmp_path / "theirs")
    again = fresh()
    model = AdaptedModel(again, [load_adapter(tmp_path / "theirs", again)])
    torch.testing.assert_close(ours(model, batch), live, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_a_prompt_on_an_encoder_is_the_formula(
    architecture: str,
    batch: dict[str, torch.Tensor],
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
    tmp_path: Path,
) -> None:
    base = tiny_base(architecture)
    model = AdaptedModel(base, [randomise(create_adapter(base, "prompt_tuning", num_virtual_tokens=P))])
    prompt = model.adapter("default").tensors()["source.prompt_embeddings"]
    bare = tiny_base(architecture).model
    embedded = torch.cat([prompt.expand(3, -1, -1), bare.get_input_embeddings()(batch["input_ids"])], 1)
    mask = torch.cat([torch.ones(3, P, dtype=torch.int64), batch["attention_mask"]], 1)
    expected = of_text(bare(inputs_embeds=embedded, attention_mask=mask), batch)
    torch.testing.assert_close(ours(model, batch), expected, rtol=1e-4, atol=1e-4)

    # Told no task, PEFT runs the base without the prompt, and says nothing.
    folder = save_adapter(model, tmp_path)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "task_type": None}))
    theirs = peft.PeftModel.from_pretrained(tiny_base(architecture).model, str(folder)).eval()
    assert torch.equal(of_text(theirs(**batch), batch), of_text(bare(**batch), batch))


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["falcon", "llama"])
@pytest.mark.parametrize("task", ["token_classification", "question_answering"])
def test_a_prompt_on_a_decoder_with_a_head_moves_the_tokens_behind_it(
    task: TaskName,
    architecture: str,
    batch: dict[str, torch.Tensor],
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
    tmp_path: Path,
) -> None:
    fresh = with_head(tiny_base, architecture, task)
    base = fresh()
    model = AdaptedModel(base, [randomise(create_adapter(base, "prompt_tuning", num_virtual_tokens=P))])
    theirs = peft.PeftModel.from_pretrained(fresh().model, str(save_adapter(model, tmp_path))).eval()
    torch.testing.assert_close(ours(model, batch), of_text(theirs(**batch), batch), rtol=1e-4, atol=1e-4)
    model.detach("default")
    assert not any(module._forward_pre_hooks for module in base.model.modules())


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning", "prefix_tuning"])
@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")
def test_padding_on_the_left_moves_tokens_behind_peft_s_prompts_and_not_behind_ours(
    method: str,
    architecture: str,
    token_ids: Callable[..., torch.Tensor],
    tmp_path: Path,
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
) -> None:
    row, base = token_ids(1, 5), tiny_base(architecture)
    padded = {
        "input_ids": torch.cat([torch.zeros(1, 4, dtype=torch.int64), row], 1),
        "attention_mask": torch.tensor([[0] * 4 + [1] * 5]),
        "position_ids": torch.tensor([[0] * 4 + [0, 1, 2, 3, 4]]),  # PEFT leaves them out
    }
    model = AdaptedModel(base, [randomise(create_adapter(base, method, num_virtual_tokens=P), scale=0.5)])
    theirs = peft.PeftModel.from_pretrained(tiny_base(architecture).model, str(save_adapter(model, tmp_path))).eval()
    alone = model(input_ids=row).logits
    torch.testing.assert_close(
        theirs(input_ids=row, attention_mask=torch.ones_like(row)).logits[:, -5:], alone, rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(model(**padded).logits[:, -5:], alone, rtol=1e-4, atol=1e-4)
    difference = float((theirs(**padded).logits[:, -5:] - alone).abs().max())
    assert difference < 1e-4 if method == "prefix_tuning" else difference > 1e-2


SEQ2SEQ: dict[str, tuple[str, dict[str, Any]]] = {
    "prompt tuning": ("prompt_tuning", {}),
    "P-tuning": ("p_tuning", {"encoder_hidden_size": 16}),
}


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["t5", "bart"])
@pytest.mark.parametrize("parts", [None, 1, 2])
@pytest.mark.parametrize("kind", SEQ2SEQ)
def test_prompts_of_encoder_decoders_go_both_ways(
    kind: str,
    parts: int | None,
    architecture: str,
    batch: dict[str, torch.Tensor],
    tmp_path: Path,
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
) -> None:
    (method, settings), answers = SEQ2SEQ[kind], {"decoder_input_ids": batch["input_ids"][:, :4]}
    torch.manual_seed(3)
    config = CONFIGS[method](
        task_type="SEQ_2_SEQ_LM", num_virtual_tokens=P, num_transformer_submodules=parts, **settings
    )
    theirs = peft.get_peft_model(tiny_base(architecture).model, config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    (matrix,) = load_file(tmp_path / "theirs" / "adapter_model.safetensors").values()
    assert len(matrix) == (P if parts == 1 else 2 * P)
    base = tiny_base(architecture)
    model = AdaptedModel(base, [load_adapter(tmp_path / "theirs", base)])
    found = model(**model.insert_virtual_tokens(batch), **answers).logits
    torch.testing.assert_close(found, theirs(**batch, **answers).logits, rtol=1e-4, atol=1e-4)

    randomise(model.adapter("default"), scale=0.5)
    live = model(**model.insert_virtual_tokens(batch), **answers).logits
    assert (live - found).abs().max() > 0.01
    folder = save_adapter(model, tmp_path / "ours")
    again = peft.PeftModel.from_pretrained(tiny_base(architecture).model, str(folder)).eval()
    torch.testing.assert_close(again(**batch, **answers).logits, live, rtol=1e-4, atol=1e-4)
    fresh = tiny_base(architecture)
    back = AdaptedModel(fresh, [load_adapter(folder, fresh)])
    assert torch.equal(back(**back.insert_virtual_tokens(batch), **answers).logits, live)


@pytest.mark.parametrize("architecture", ["t5", "bart"])
def test_peft_learns_half_of_what_it_saves_for_an_encoder_decoder(
    architecture: str, token_ids: Callable[..., torch.Tensor], tiny_base: Callable[..., Base]
) -> None:
    ids = token_ids(2, 6)
    config = peft.PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=P)
    theirs = peft.get_peft_model(tiny_base(architecture).model, config).eval()
    theirs(input_ids=ids, decoder_input_ids=ids[:, :3]).logits.square().sum().backward()
    weight = theirs.prompt_encoder["default"].embedding.weight
    assert weight.shape == (2 * P, 32)
    assert weight.grad is not None
    assert weight.grad[:P].any()
    assert not weight.grad[P:].any()


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("llama", {"num_transformer_submodules": 2}, "is 2, expected 1: this base is of the kind decoder"),
        ("t5", {"num_transformer_submodules": 3}, "is 3, expected 1 or 2: this base is of the kind encoder-decoder"),
        ("t5", {"num_virtual_tokens": 3}, r"has shape \[8, 32\], expected \[3, 32\]"),
        ("t5", {"peft_type": "PREFIX_TUNING"}, "prefixes leave the encoder of an encoder-decoder out"),
    ],
    ids=str,
)
def test_sizes_that_are_not_those_of_the_base_are_refused(
    architecture: str, changes: dict[str, Any], message: str, tmp_path: Path, tiny_base: Callable[..., Base]
) -> None:
    config = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": P, **changes}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file({"prompt_embeddings": torch.zeros(2 * P, 32)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(AdapterFormatError, match=message):
        load_adapter(tmp_path, tiny_base(architecture))


def test_peft_has_llama_adapter_for_some_decoders_only(tiny_base: Callable[..., Base], tmp_path: Path) -> None:
    for architecture in ("bert", "roberta", "gpt_neox"):
        with pytest.raises(ValueError, match="Unsupported model type for adaption prompt"):
            peft.get_peft_model(
                tiny_base(architecture).model, peft.AdaptionPromptConfig(adapter_len=4, adapter_layers=1)
            )
        base = tiny_base(architecture)
        model = AdaptedModel(base, [create_adapter(base, "llama_adapter")])
        assert not (save_adapter(model, tmp_path / architecture) / "adapter_config.json").exists()
