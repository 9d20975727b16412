"""Prefix tuning: the formula, its start, PEFT's files."""

from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from transformers import DynamicCache
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.arguments import takes
from petune.backbone.base import Base
from petune.checkpoint.folder import load_adapter, save_adapter
from petune.data.loading import load_examples
from petune.data.options import DataOptions
from petune.errors import AdapterFormatError, BaseModelError, ConfigError, DataError
from petune.evaluation.generate import generate
from petune.evaluation.options import GenerationOptions
from petune.evaluation.scoring import score_choices
from petune.training.run import train

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file in tiny:UserWarning"),
]


def caching(base: Base, ids: torch.Tensor) -> torch.Tensor:
    """Logits of the last six tokens, the first four being given as a K/V cache."""
    cache = base.model(input_ids=ids[:, :4], use_cache=True).past_key_values
    return base.model(input_ids=ids[:, 4:], past_key_values=cache).logits


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
@torch.no_grad()
def test_keys_and_values_of_tokens_act_like_those_tokens(
    architecture: str, tiny_base: Callable[..., Base], token_ids: Callable[..., torch.Tensor]
) -> None:
    base = tiny_base(architecture)
    text = "abcd"
    prefix = base.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    ids = torch.cat([prefix.expand(2, -1), token_ids(2, 6)], 1)
    expected = caching(base, ids)
    model = AdaptedModel(
        base, [create_adapter(base, "prefix_tuning", num_virtual_tokens=4, prefix_init="text", prefix_init_text=text)]
    )
    torch.testing.assert_close(model(input_ids=ids[:, 4:]).logits, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_start_without_a_text_has_the_scale_of_the_base(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base()
    adapter = create_adapter(base, "prefix_tuning", num_virtual_tokens=100)
    layers = base.structure.attentions
    keys = [adapter.tensors()[f"{a.path}.keys"] for a in layers]
    assert [k.shape for k in keys] == [(2, 100, 8)] * len(layers)
    ids = torch.arange(3, 283)[None]
    cache = base.model(input_ids=ids[:, :100], use_cache=True).past_key_values
    for layer, start in enumerate(keys):
        assert start.std().item() == pytest.approx(cache.layers[layer].keys.std().item(), rel=0.2)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "falcon"])
@torch.no_grad()
def test_peft_reads_our_folder_and_we_read_theirs(
    architecture: str,
    tmp_path: Path,
    tiny_base: Callable[..., Base],
    token_ids: Callable[..., torch.Tensor],
    randomise: Callable[..., Adapter],
) -> None:
    ids = token_ids(2, 8)
    mask = torch.ones_like(ids)
    mask[0, -3:] = 0
    seen = mask.bool()
    base = tiny_base(architecture)
    model = AdaptedModel(base, [randomise(create_adapter(base, "prefix_tuning", num_virtual_tokens=5))])
    ours = model(input_ids=ids, attention_mask=mask).logits[seen]
    save_adapter(model, tmp_path / "ours")
    theirs = peft.PeftModel.from_pretrained(tiny_base(architecture).model, str(tmp_path / "ours")).eval()
    torch.testing.assert_close(theirs(input_ids=ids, attention_mask=mask).logits[seen], ours, rtol=1e-4, atol=1e-4)

    theirs.save_pretrained(tmp_path / "theirs")
    base = tiny_base(architecture)
    again = AdaptedModel(base, [load_adapter(tmp_path / "theirs", base)])
    torch.testing.assert_close(again(input_ids=ids, attention_mask=mask).logits[seen], ours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ["deepseek_v3", "gemma4_text"])
@pytest.mark.parametrize("method", ["prefix_tuning", "p_tuning_v2"])
@pytest.mark.parametrize("projected", [False, True])
def test_keys_and_values_of_different_sizes_are_learned_and_kept(
    architecture: str,
    method: str,
    projected: bool,
    tmp_path: Path,
    tiny_base: Callable[..., Base],
    token_ids: Callable[..., torch.Tensor],
) -> None:
    base, ids = tiny_base(architecture), token_ids(2, 8)
    adapter = create_adapter(base, method, num_virtual_tokens=3, prefix_projection=projected)
    adapter.set_trainable(True)
    model = AdaptedModel(base, [adapter])
    model(input_ids=ids).logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in adapter.parameters())
    model.bake(adapter.name)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.adapter(adapter.name).tensors().items()}
    for a in base.structure.attentions:
        assert shapes[f"{a.path}.keys"] == (a.num_kv_heads, 3, a.head_dim)
        assert shapes[f"{a.path}.values"] == (a.num_kv_heads, 3, a.value_dim)

    save_adapter(model, tmp_path)  # PEFT's one matrix holds nothing like it
    assert not (tmp_path / "adapter_config.json").exists()
    other = tiny_base(architecture)
    again = AdaptedModel(other, [load_adapter(tmp_path, other)])
    torch.testing.assert_close(again(input_ids=ids).logits, model(input_ids=ids).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["prefix_tuning", "p_tuning_v2"])
def test_a_base_without_attention_is_refused(method: str, tiny_base: Callable[..., Base]) -> None:
    with pytest.raises(BaseModelError, match="MambaForCausalLM has no attention"):
        create_adapter(tiny_base("mamba"), method)


def test_linear_attention_gets_no_keys_and_values(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base("minimax", layer_types=["linear_attention", "full_attention"])
    assert list(create_adapter(base, "prefix_tuning").slots) == ["model.layers.1.self_attn"]


def test_pefts_prefixes_are_refused_where_keys_and_values_differ_in_size(
    tmp_path: Path, tiny_base: Callable[..., Base]
) -> None:
    save_adapter(AdaptedModel(tiny_base(), [create_adapter(tiny_base(), "prefix_tuning")]), tmp_path)
    (tmp_path / "petune.json").unlink()
    with pytest.raises(AdapterFormatError, match="differ in their heads or widths"):
        load_adapter(tmp_path, tiny_base("deepseek_v3"))


@torch.no_grad()
def test_a_prefix_that_peft_made_with_a_projection_is_read(
    tmp_path: Path, tiny_base: Callable[..., Base], token_ids: Callable[..., torch.Tensor]
) -> None:
    ids = token_ids(2, 8)
    config = peft.PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=3, prefix_projection=True, encoder_hidden_size=16
    )
    theirs = peft.get_peft_model(tiny_base().model, config).eval()
    theirs.save_pretrained(tmp_path)
    base = tiny_base()
    model = AdaptedModel(base, [load_adapter(tmp_path, base)])
    expected = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)


def infix(base: Base, randomise: Callable[..., Adapter], **options: object) -> AdaptedModel:
    adapter = randomise(create_adapter(base, "prefix_tuning", num_virtual_tokens=4, placement="infix", **options))
    return AdaptedModel(base, [adapter])


def hidden_states(model: AdaptedModel, ids: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
    return torch.stack(model(input_ids=ids, output_hidden_states=True, **inputs).hidden_states[1:-1])


@pytest.mark.parametrize("architecture", ["llama", "gemma", "gpt2", "opt", "bloom", "falcon"])
@pytest.mark.parametrize("projection", [False, True])
@torch.no_grad()
def test_an_infix_is_a_prefix_that_the_prompt_does_not_see(
    projection: bool,
    architecture: str,
    tiny_base: Callable[..., Base],
    token_ids: Callable[..., torch.Tensor],
    randomise: Callable[..., Adapter],
) -> None:
    base, ids, starts = tiny_base(architecture), token_ids(3, 9), (5, 1, 9)
    moved = {"position_ids": torch.arange(4, 13)[None]} if takes(base.model, "position_ids") else {}
    bare = hidden_states(AdaptedModel(base), ids, **moved)
    model = infix(base, randomise, prefix_projection=projection)
    with model.answers_from(starts):
        seen = hidden_states(model, ids)
    for row, start in enumerate(starts):
        torch.testing.assert_close(seen[:, row, : start - 1], bare[:, row, : start - 1], rtol=1e-5, atol=1e-5)
        change = (seen[:, row, start - 1 :] - bare[:, row, start - 1 :]).abs().amax(-1)
        assert (change > 1e-2).all()


@torch.no_grad()
def test_an_infix_is_the_formula_with_a_mask(
    tiny_base: Callable[..., Base], token_ids: Callable[..., torch.Tensor], randomise: Callable[..., Adapter]
) -> None:
    base, ids = tiny_base(), token_ids(1, 9)
    path = base.structure.attentions[0].path
    attention = base.model.get_submodule(path)
    hidden = base.model.model.layers[0].input_layernorm(base.model.get_input_embeddings()(ids))
    query, key, value = (
        linear(hidden).view(1, 9, -1, 8).transpose(1, 2)
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    query, key = apply_rotary_pos_emb(query, key, *base.model.model.rotary_emb(hidden, torch.arange(4, 13)[None]))
    model = infix(base, randomise)
    slot = model.adapter("default").slots[path]
    keys, values = (torch.cat([own[None], t], 2) for own, t in ((slot.keys, key), (slot.values, value)))
    mask = torch.ones(9, 13, dtype=torch.bool).tril(4)
    mask[:4, :4] = False  # the answer begins at token 5, which token 4 predicts
    scores = query @ keys.repeat_interleave(2, 1).mT / 8**0.5
    mixed = scores.masked_fill(~mask, -torch.inf).softmax(-1) @ values.repeat_interleave(2, 1)
    expected = attention.o_proj(mixed.transpose(1, 2).flatten(2))

    seen: list[torch.Tensor] = []
    handle = attention.o_proj.register_forward_hook(lambda *call: seen.append(call[-1]))
    with model.answers_from([5]):
        model(input_ids=ids)
    handle.remove()
    torch.testing.assert_close(seen[-1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"cache_implementation": "static"}], ids=str)
@torch.no_grad()
def test_generating_after_an_infix(
    options: dict[str, object],
    tiny_base: Callable[..., Base],
    token_ids: Callable[..., torch.Tensor],
    randomise: Callable[..., Adapter],
) -> None:
    model, ids = infix(tiny_base(), randomise), token_ids(3, 8)
    mask = torch.ones_like(ids)
    mask[0, :3], mask[2, :1] = 0, 0
    settings = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None, **options}
    with model.answers_from([8, 8, 8]):
        together = model.model.generate(input_ids=ids, attention_mask=mask, **settings)
    for row in range(3):
        alone = ids[row][mask[row].bool()][None]
        with model.answers_from([alone.shape[1]]):
            expected = model.model.generate(input_ids=alone, **settings)
            if not options:
                uncached = model.model.generate(input_ids=alone, **settings, use_cache=False)
                assert torch.equal(uncached, expected)
        assert torch.equal(together[row, 8:], expected[0, alone.shape[1] :])


def test_training_evaluation_and_generation_tell_an_infix_where_the_answer_begins(
    tmp_path: Path, tiny_base: Callable[..., Base], write_rows: Callable[..., Path]
) -> None:
    rows = [{"text": f"row {i}", "label": "yes" if i % 2 else "no"} for i in range(8)]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    base = tiny_base()
    result = train(
        {
            "method": "prefix_tuning", "placement": "infix", "data": str(data), "eval_data": str(data),
            "metrics": ["accuracy"], "output_dir": str(tmp_path / "run"), "num_train_epochs": 1,
            "gradient_checkpointing": True,
        },
        base=base,
    )  # fmt: skip
    assert 0 <= result.eval_metrics["accuracy"] <= 1
    assert not (tmp_path / "run" / "adapter_config.json").exists()  # PEFT would show it to every token
    model = AdaptedModel(fresh := tiny_base(), [load_adapter(tmp_path / "run", fresh)])
    examples = load_examples(DataOptions(data=str(data)), base.tokenizer)
    assert score_choices(model, examples, ("no", "yes")) == score_choices(result.model, examples, ("no", "yes"))
    (text,) = generate(result.model, ["row"], GenerationOptions(max_new_tokens=3))
    assert text.num_tokens == 3
    with pytest.raises(ConfigError, match=r"nobody said where the answer begins: call the model inside `with model.an"):
        model(input_ids=torch.tensor([[5, 6]]))


def test_an_infix_needs_rows_with_a_prompt(
    tmp_path: Path, tiny_base: Callable[..., Base], write_rows: Callable[..., Path]
) -> None:
    data = write_rows(
        tmp_path / "rows.jsonl", [{"prompt": "a b", "completion": "c"}, {"prompt": "", "completion": "d"}]
    )
    options = {"method": "prefix_tuning", "placement": "infix", "data": str(data), "output_dir": str(tmp_path / "run")}
    with pytest.raises(
        DataError, match=r"in 1 of 2 rows nothing does, the first at .*rows.jsonl:2; give rows a prompt"
    ):
        train(options, base=tiny_base())
    assert not (tmp_path / "run" / "checkpoint-1").exists()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
def test_a_gated_prefix_starts_from_the_unchanged_base_and_learns(
    architecture: str, tmp_path: Path, tiny_base: Callable[..., Base], token_ids: Callable[..., torch.Tensor]
) -> None:
    base, ids = tiny_base(architecture), token_ids(3, 9)
    with torch.no_grad():
        bare = base.model(input_ids=ids).logits
    adapter = create_adapter(base, "prefix_tuning", num_virtual_tokens=4, prefix_gate=True)
    adapter.set_trainable(True)
    model = AdaptedModel(base, [adapter])
    logits = model(input_ids=ids).logits
    torch.testing.assert_close(logits, bare, rtol=1e-6, atol=1e-6)

    logits[:, -1].square().sum().backward()
    with torch.no_grad():
        for name, parameter in adapter.named_masters():
            assert parameter.grad is not None
            assert bool(parameter.grad.any()) == name.endswith("gate")  # keys and values follow once it has opened
            parameter -= 0.1 * parameter.grad.sign()
    changed = model(input_ids=ids).logits
    assert (changed - bare).abs().max() > 1e-3
    adapter.zero_grad()
    changed[:, -1].square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in adapter.parameters())

    folder = save_adapter(model, tmp_path)
    assert not (folder / "adapter_config.json").exists()  # PEFT would put it into the one softmax
    again = AdaptedModel(fresh := tiny_base(architecture), [load_adapter(folder, fresh)])
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)


@pytest.mark.parametrize("projection", [False, True])
@torch.no_grad()
def test_real_tokens_may_keep_their_positions(
    projection: bool,
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
    token_ids: Callable[..., torch.Tensor],
    tmp_path: Path,
) -> None:
    base, ids = tiny_base(), token_ids(2, 6)
    adapter = randomise(
        create_adapter(base, "prefix_tuning", num_virtual_tokens=3, prefix_projection=projection, shift_positions=False)
    ).baked()
    cache = DynamicCache()
    for layer, attention in enumerate(base.structure.attentions):
        keys, values = (
            adapter.tensors()[f"{attention.path}.{name}"].expand(2, -1, -1, -1) for name in ("keys", "values")
        )
        cache.update(keys, values, layer)
    positions = torch.arange(6)[None].expand(2, -1)
    expected = base.model(input_ids=ids, past_key_values=cache, position_ids=positions).logits
    model = AdaptedModel(base, [adapter])
    assert model.virtual_tokens == 0
    torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-5)
    folder = save_adapter(model, tmp_path)
    assert not (folder / "adapter_config.json").exists()  # PEFT would move them
    again = AdaptedModel(other := tiny_base(), [load_adapter(folder, other)])
    torch.testing.assert_close(again(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-5)


def test_more_tokens_than_positions(tiny_base: Callable[..., Base], token_ids: Callable[..., torch.Tensor]) -> None:
    base = tiny_base("gpt2")
    model = AdaptedModel(base, [create_adapter(base, "prefix_tuning", num_virtual_tokens=100)])
    with pytest.raises(DataError, match="40 tokens and 100 virtual tokens are more than the model's 128 positions"):
        model(input_ids=token_ids(1, 40))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prefix_init": "text"}, "go together"),
        ({"prefix_gate": True, "prefix_projection": True}, "leave out prefix_projection and placement=infix"),
        ({"prefix_gate": True, "placement": "infix"}, "leave out prefix_projection and placement=infix"),
        ({"prefix_gate": True, "shift_positions": False}, "takes no positions anyway; leave out shift_positions"),
        ({"encoder_hidden_size": 8}, "is the width of the projection; set prefix_projection=true with it"),
        (
            {"prefix_init": "text", "prefix_init_text": "abc", "num_virtual_tokens": 2},
            "prefix_init_text has 3 tokens, num_virtual_tokens is 2",
        ),
    ],
)
def test_bad_settings(options: dict[str, object], message: str, tiny_base: Callable[..., Base]) -> None:
    with pytest.raises(ConfigError, match=message):
        create_adapter(tiny_base(), "prefix_tuning", **options)
