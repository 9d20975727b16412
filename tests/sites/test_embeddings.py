"""The embedding site: virtual tokens anywhere in a row equal embeddings put there; rows keep to themselves."""

from collections.abc import Callable

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from petune.errors import DataError
from petune.methods.soft_prompt import SoftPrompt
from petune.sites.embeddings import EmbeddingSite, EmbeddingSlot, input_embeddings, vocabulary_size
from petune.sites.routing import Route, Routing

V, P, WIDTH = 288, 3, 32


def plugged(model: PreTrainedModel, **sizes: int) -> tuple[EmbeddingSite, dict[str, SoftPrompt]]:
    """Plug an adapter of each name and number of virtual tokens into a new site of ``model``."""
    site = EmbeddingSite(model, Routing.of(model))
    prompts = {}
    for seed, (name, size) in enumerate(sizes.items()):
        start = 0.3 * torch.randn(size, WIDTH, generator=torch.Generator().manual_seed(seed))
        prompts[name] = SoftPrompt(start)
        site.plug(name, EmbeddingSlot(size), prompts[name])
    return site, prompts


def embedded(model: PreTrainedModel, ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Write out what the site should make of ``ids`` [T]: rows of ``table`` [P, d] in the places of virtual tokens."""
    look_up = input_embeddings(model)
    pieces = [table[token - V] if token >= V else look_up(torch.tensor(token)) for token in ids.tolist()]
    return torch.stack(pieces)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "bloom", "gemma2"])
def test_equals_embeddings_in_the_same_places_and_so_do_gradients(
    architecture: str, tiny_model: Callable[..., PreTrainedModel], token_ids: Callable[..., torch.Tensor]
) -> None:
    model = tiny_model(architecture).requires_grad_(False)
    ids = token_ids(2, 9)
    ids[0, [2, 3, 7]] = ids[1, [0, 5, 8]] = torch.tensor([V, V + 1, V + 2])
    _, prompts = plugged(model, own=P)
    table = prompts["own"].prompt_embeddings.detach().clone().requires_grad_()
    expected = model(inputs_embeds=torch.stack([embedded(model, row, table) for row in ids])).logits
    expected.square().sum().backward()
    with Routing.of(model).use(Route.everywhere(("own",))):
        actual = model(input_ids=ids).logits
        actual.square().sum().backward()
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    gradient = prompts["own"].prompt_embeddings.grad
    assert gradient is not None
    assert table.grad is not None
    assert (gradient - table.grad).norm() / table.grad.norm() < 1e-5


def encoder_models() -> list[PreTrainedModel]:
    shared = {"vocab_size": V, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1, "decoder_start_token_id": 0}
    bert = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    t5 = {"d_model": WIDTH, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    bart = {"d_model": WIDTH, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "scale_embedding": True}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [
            BertForMaskedLM(BertConfig(vocab_size=V, pad_token_id=0, **bert)).eval(),
            T5ForConditionalGeneration(T5Config(**shared, **t5)).eval(),
            BartForConditionalGeneration(BartConfig(**shared, **bart, **heads)).eval(),
        ]


@pytest.mark.parametrize("kind", range(3), ids=["bert", "t5", "bart"])
@torch.no_grad()
def test_encoders_and_the_encoder_side_of_encoder_decoders(kind: int, token_ids: Callable[..., torch.Tensor]) -> None:
    model, ids = encoder_models()[kind], token_ids(2, 8)
    ids[0, :P] = ids[1, [1, 4, 7]] = torch.tensor([V, V + 1, V + 2])
    _, prompts = plugged(model, own=P)
    embeddings = torch.stack([embedded(model, row, prompts["own"].prompt_embeddings) for row in ids])
    decoder = {} if kind == 0 else {"decoder_input_ids": token_ids(2, 4, seed=5)}
    expected = model(inputs_embeds=embeddings, **decoder).logits
    mask = torch.ones_like(ids)
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    text = model.generate(inputs_embeds=embeddings, attention_mask=mask, **options) if kind else None
    with Routing.of(model).use(Route.everywhere(("own",))):
        assert torch.allclose(model(input_ids=ids, **decoder).logits, expected, atol=1e-5)
        if kind:
            assert torch.equal(model.generate(input_ids=ids, attention_mask=mask, **options), text)
            with pytest.raises(DataError, match="holds 0 virtual tokens, expected 3"):
                model.generate(input_ids=token_ids(2, 8), attention_mask=mask, **options)


@torch.no_grad()
def test_positions_beyond_the_vocabulary_stay_what_they_are() -> None:
    shape = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    size, length = 24, 40
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertForMaskedLM(BertConfig(vocab_size=size, max_position_embeddings=64, **shape)).eval()
        ids = torch.randint(size, (2, length))
    bare = model(input_ids=ids).logits
    _, prompts = plugged(model, own=P)
    written = ids.clone()
    written[0, [1, 30, 33]] = torch.arange(size, size + P)
    embeddings = input_embeddings(model)(ids)
    embeddings[0, [1, 30, 33]] = prompts["own"].prompt_embeddings
    expected = model(inputs_embeds=embeddings[:1]).logits[0]
    with Routing.of(model).use(Route.of([("own",), ()])):
        mixed = model(input_ids=written).logits
    torch.testing.assert_close(mixed[0], expected)
    torch.testing.assert_close(mixed[1], bare[1])


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_rows_of_a_mixed_padded_batch_equal_the_rows_alone(
    side: str, tiny_model: Callable[..., PreTrainedModel], token_ids: Callable[..., torch.Tensor]
) -> None:
    model = tiny_model()
    plugged(model, one=2, other=4)
    routing = Routing.of(model)
    stacks = [("one",), (), ("other",), ("other", "one")]
    rows = [token_ids(1, n, seed=n)[0] for n in (6, 9, 11, 8)]
    rows[0][[0, 5]] = torch.tensor([V, V + 1])
    rows[2][[3, 4, 5, 6]] = torch.arange(V, V + 4)
    rows[3][[1, 2, 3, 4, 0, 7]] = torch.arange(V, V + 6)  # those of the second adapter follow those of the first
    ids, mask = torch.zeros(4, 11, dtype=torch.int64), torch.zeros(4, 11, dtype=torch.int64)
    for i, row in enumerate(rows):
        where = slice(11 - len(row), None) if side == "left" else slice(0, len(row))
        ids[i, where], mask[i, where] = row, 1
    with routing.use(Route.of(stacks)):
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        batch = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    for i, (row, stack) in enumerate(zip(rows, stacks, strict=True)):
        with routing.use(Route.everywhere(stack)):
            alone = model(input_ids=row[None]).logits[0]
        torch.testing.assert_close(batch[i][mask[i].bool()], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"use_cache": False}, {"num_beams": 3}, {"cache_implementation": "static"}])
@torch.no_grad()
def test_generation_with_caches_and_beams(
    options: dict[str, object], tiny_model: Callable[..., PreTrainedModel], token_ids: Callable[..., torch.Tensor]
) -> None:
    model, ids = tiny_model(), token_ids(2, 7)
    ids[0, [0, 6]] = ids[1, [3, 4]] = torch.tensor([V, V + 1])
    _, prompts = plugged(model, own=2)
    settings = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0, **options}
    mask = torch.ones_like(ids)
    embeddings = torch.stack([embedded(model, row, prompts["own"].prompt_embeddings) for row in ids])
    expected = model.generate(inputs_embeds=embeddings, attention_mask=mask, **settings)
    with Routing.of(model).use(Route.everywhere(("own",))):
        assert torch.equal(model.generate(input_ids=ids, attention_mask=mask, **settings)[:, 7:], expected)


@torch.no_grad()
def test_rows_written_wrongly_are_errors(
    tiny_model: Callable[..., PreTrainedModel], token_ids: Callable[..., torch.Tensor]
) -> None:
    model, ids = tiny_model(), token_ids(2, 7)
    site, _ = plugged(model, own=2)
    routing = Routing.of(model)
    with routing.use(Route.everywhere(("own",))):
        with pytest.raises(DataError, match="a row for own holds 0 virtual tokens, expected 2; write rows with"):
            model(input_ids=ids)
        with pytest.raises(DataError, match="stand among token ids, and embeddings were given"):
            model(inputs_embeds=torch.zeros(2, 7, WIDTH))
    ids[:, 1] = V
    with routing.use(Route.everywhere(("own",))), pytest.raises(DataError, match="holds 1 virtual tokens, expected 2"):
        model(ids)
    ids[:, 2] = V + 1
    with routing.use(Route.of([("own",), ()])), pytest.raises(DataError, match="for the bare base holds 2 virtual"):
        model(ids)
    with routing.use(Route.everywhere(())), pytest.raises(DataError, match="virtual tokens of another adapter"):
        model(ids)
    site.unplug("own")
    with pytest.raises(IndexError):
        model(ids)


def test_unplugging_the_last_slot_leaves_no_hook(tiny_model: Callable[..., PreTrainedModel]) -> None:
    model = tiny_model()
    assert vocabulary_size(model) == V

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    before = hooks()
    site, _ = plugged(model, one=1, other=2)
    site.unplug("one")
    assert hooks() == before + 3
    site.unplug("other")
    assert hooks() == before
