"""What all rows of a batch begin with is computed once: same loss, same gradients, and reasons where it is not."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.data.batching import answer_starts, collate
from petune.data.encoding import IGNORED, Encoded
from petune.sites.head import LabelLoss
from petune.training import shared_prefix
from petune.training.recomputation import gradient_checkpointing
from petune.training.run import train
from petune.training.shared_prefix import SharedPrefix, shared_length

ALIKE = [11, 12, 13, 14, 15, 16]


def row(own: list[int], answer: list[int], alike: list[int] = ALIKE) -> Encoded:
    ids = [*alike, *own, *answer]
    return Encoded(ids, [*[IGNORED] * (len(ids) - len(answer)), *answer], "rows:1")


ROWS = [row([20, 21], [30]), row([22], [31, 32]), row([20, 23, 24, 25], [33])]


@pytest.fixture(autouse=True)
def share_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Share prefixes as short as those of these tests."""
    monkeypatch.setattr(shared_prefix, "LEAST_SAVED", 2)


@pytest.mark.parametrize(
    ("rows", "length"),
    [
        (ROWS, 6),
        (ROWS[::2], 7),  # 20 comes next in both
        ([row([], [30]), row([], [31])], 5),  # the last one alike predicts the answers
        ([row([20], [30]), row([20], [30], alike=[9, *ALIKE])], 0),
        ([row([], ALIKE, alike=[]), row([], ALIKE, alike=[])], 0),  # everything is learned
        ([Encoded([1, 2], [IGNORED] * 2, ""), Encoded([1, 2, 3], [IGNORED] * 3, "")], 1),
    ],
)
def test_how_much_rows_share(rows: list[Encoded], length: int) -> None:
    assert shared_length(rows) == length


def loss_and_gradients(model: AdaptedModel, adapter: Adapter, cut: bool) -> tuple[Tensor, dict[str, Tensor], int]:
    """Return the loss of ``ROWS``, the gradient of each master, and how many tokens the rows were read with."""
    batch = collate(ROWS, pad_token_id=0)
    labels = batch.pop("labels")
    objective = LabelLoss(model.model, model.plugged_into)
    inputs: Any = batch
    adapter.zero_grad()
    with model.fast_training(), model.route([adapter.name] * len(ROWS)), model.answers_from(answer_starts(ROWS)):
        if cut:
            prefix = SharedPrefix(model, objective)
            inputs, labels = prefix.cut([adapter.name] * len(ROWS), ROWS, batch, labels)
        loss = objective(inputs, labels).sum()
        loss.backward()
    gradients = {name: p.grad.clone() for name, p in adapter.named_masters() if p.grad is not None}
    return loss.detach(), gradients, inputs["input_ids"].shape[1]


def assert_the_same(base: Base, adapter: Adapter) -> None:
    adapter.set_trainable(True)
    model = AdaptedModel(base, [adapter])
    whole, expected, _ = loss_and_gradients(model, adapter, cut=False)
    shared, gradients, tokens = loss_and_gradients(model, adapter, cut=True)
    assert tokens == max(len(r.input_ids) for r in ROWS) - len(ALIKE)
    torch.testing.assert_close(shared, whole, atol=1e-6, rtol=1e-6)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], atol=2e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "bloom", "gemma2", "opt", "cohere", "falcon"])
def test_loss_and_gradients_on_every_architecture(
    architecture: str, tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]
) -> None:
    base = tiny_base(architecture)
    assert_the_same(base, randomise(create_adapter(base, "lora", r=2, target_modules="all-linear")))


def test_loss_and_gradients_with_every_method(
    method: str, tiny_base_for: Callable[..., Base], randomise: Callable[..., Adapter]
) -> None:
    base = tiny_base_for(method)
    options = {"p_tuning_v2": {"prefix_dropout": 0.0}}.get(method, {})
    adapter = create_adapter(base, method, **options)
    assert_the_same(base, adapter if method == "full" else randomise(adapter))


def test_an_infix_stays_hidden_from_what_is_shared(
    tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]
) -> None:
    base = tiny_base("llama")
    assert_the_same(base, randomise(create_adapter(base, "prefix_tuning", num_virtual_tokens=3, placement="infix")))


def test_a_window_shorter_than_the_rows(tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]) -> None:
    base = tiny_base("mistral", sliding_window=4)
    assert_the_same(base, randomise(create_adapter(base, "lora", r=2)))


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_rows_for_which_rotary_embeddings_are_scaled_stay_whole(kind: str, tiny_base: Callable[..., Base]) -> None:
    parameters = {
        "longrope": {
            "short_factor": [1.0] * 4, "long_factor": [4.0, 6.0, 8.0, 10.0], "original_max_position_embeddings": 16,
        },
        "dynamic": {},
    }[kind]  # fmt: skip
    base = tiny_base(
        "llama",
        rope_parameters={"rope_type": kind, "rope_theta": 10000.0, "factor": 8.0, **parameters},
        max_position_embeddings={"longrope": 128, "dynamic": 16}[kind],
    )
    model = AdaptedModel(base, [create_adapter(base, "lora")])
    objective = LabelLoss(model.model, model.plugged_into)
    prefix, names = SharedPrefix(model, objective), ["default"] * 3
    long = [row(list(range(40, 60)), [30]), *ROWS[1:]]
    for rows, is_cut in ((ROWS, True), (long, False), (ROWS, True)):
        batch = collate(rows, pad_token_id=0)
        labels = batch.pop("labels")
        with model.route(names), torch.no_grad():
            whole = objective(batch, labels)
            inputs, rest = prefix.cut(names, rows, batch, labels)
            assert (rest.shape[1] < labels.shape[1]) is is_cut
            torch.testing.assert_close(objective(inputs, rest), whole, atol=1e-6, rtol=1e-6)


def test_rows_of_several_adapters(tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]) -> None:
    base = tiny_base("llama")
    first = randomise(create_adapter(base, "lora", name="first", r=2))
    second = randomise(create_adapter(base, "prefix_tuning", name="second", num_virtual_tokens=3), seed=5)
    model, names = AdaptedModel(base, [first, second]), ["second", "first", "second"]
    batch = collate(ROWS, pad_token_id=0)
    labels = batch.pop("labels")
    objective = LabelLoss(model.model, model.plugged_into)
    with model.route(names), torch.no_grad():
        whole = objective(batch, labels)
        inputs, rest = SharedPrefix(model, objective).cut(names, ROWS, batch, labels)
        assert rest.shape[1] == labels.shape[1] - len(ALIKE)
        torch.testing.assert_close(objective(inputs, rest), whole, atol=1e-6, rtol=1e-6)


def reason(model: AdaptedModel, rows: list[Encoded] = ROWS) -> str | None:
    """Return why ``rows`` are not cut, or None if they are."""
    batch = collate(rows, pad_token_id=0)
    labels = batch.pop("labels")
    prefix = SharedPrefix(model, LabelLoss(model.model, model.plugged_into))
    with model.route(["default"] * len(rows)), model.answers_from(answer_starts(rows)):
        return prefix._why_not(["default"] * len(rows), batch, labels, len(ALIKE))


def test_why_not(tiny_base: Callable[..., Base], monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("llama")
    dropping = AdaptedModel(base, [create_adapter(base, "lora", lora_dropout=0.5)]).train()
    before = torch.get_rng_state()
    assert reason(dropping) == "each row draws a dropout of its own"
    assert torch.equal(torch.get_rng_state(), before)
    assert reason(dropping.eval()) is None
    with gradient_checkpointing(base.model):
        batch = collate(ROWS, pad_token_id=0)
        labels = batch.pop("labels")
        prefix = SharedPrefix(dropping, LabelLoss(dropping.model, dropping.plugged_into))
        assert prefix.cut(["default"] * len(ROWS), ROWS, batch, labels)[0] is batch
    monkeypatch.setattr(SharedPrefix, "_cache", lambda self, adapters, prefix: None)
    assert reason(dropping) == "LlamaForCausalLM does not go on behind a cache"


def test_a_model_that_treats_its_cache_in_its_own_way_is_noticed(
    tiny_base: Callable[..., Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_base("llama")
    model = AdaptedModel(base, [create_adapter(base, "lora")])
    cache = SharedPrefix._cache

    def bent(self: SharedPrefix, adapters: Sequence[str], prefix: Tensor) -> Any:
        return cache(self, adapters, prefix.flip(1))

    monkeypatch.setattr(SharedPrefix, "_cache", bent)
    assert str(reason(model)).startswith("the loss would differ by")


def test_virtual_tokens_among_the_shared_ones(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base("llama")
    model = AdaptedModel(base, [create_adapter(base, "prompt_tuning", num_virtual_tokens=2, placement="append")])
    assert reason(model) == "the adapter's virtual tokens stand among them"


def test_a_run_reads_what_rows_share_once(
    tiny_base: Callable[..., Base], keys: Callable[..., Any], tmp_path: Any, write_rows: Callable[..., Any]
) -> None:
    rows = [{"prompt": f"A long instruction that never changes: {w}", "completion": f" {w[::-1]}"} for w in "abcdefgh"]
    data = write_rows(tmp_path / "alike.jsonl", rows)

    def run(**changes: Any) -> tuple[list[float], int]:
        base, tokens = tiny_base("llama"), []
        base.model.model.layers[0].register_forward_hook(lambda _, __, output: tokens.append(output[..., 0].numel()))
        result = train(keys(data=str(data), method="lora", **changes), base=base, overwrite=True)
        return [entry["loss"] for entry in result.history], sum(tokens)

    losses, tokens = run()
    expected, all_tokens = run(share_prefix=False)
    assert losses == pytest.approx(expected, abs=1e-5)
    assert tokens < 0.8 * all_tokens


def test_why_a_run_does_not_is_told(
    tiny_base: Callable[..., Base],
    keys: Callable[..., Any],
    tmp_path: Any,
    write_rows: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = [{"prompt": f"A long instruction that never changes: {w}", "completion": " yes"} for w in "abcd"]
    data = write_rows(tmp_path / "alike.jsonl", rows)
    with caplog.at_level(logging.INFO, "petune"):
        train(keys(data=str(data), method="lora", lora_dropout=0.5), base=tiny_base("llama"))
    messages = [record.getMessage() for record in caplog.records]
    assert (
        messages.count("what all rows begin with is computed for each of them: each row draws a dropout of its own")
        == 1
    )


def test_an_adapter_whose_tokens_stand_in_rows_refuses_for_itself_alone(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base("llama")
    first, second = (create_adapter(base, "lora", name=name, r=2) for name in ("a", "b"))
    placed = create_adapter(base, "prompt_tuning", name="p", num_virtual_tokens=2, placement="append")
    model = AdaptedModel(base, [first, second, placed])
    batch = collate(ROWS, pad_token_id=0)
    labels = batch.pop("labels")
    prefix = SharedPrefix(model, LabelLoss(model.model, model.plugged_into))

    def tokens(*names: str) -> int:
        with model.fast_training(), model.route(names), model.answers_from(answer_starts(ROWS)), torch.no_grad():
            return int(prefix.cut(names, ROWS, batch, labels)[0]["input_ids"].shape[1])

    whole = batch["input_ids"].shape[1]
    assert tokens("a", "p", "a") == whole
    assert tokens("a", "b", "a") == whole - len(ALIKE)


@pytest.mark.parametrize("order", [["drops", "drops", "keeps"], ["keeps", "drops", "drops"]])
def test_an_adapter_with_dropout_refuses_for_itself_alone(order: list[str], tiny_base: Callable[..., Base]) -> None:
    base = tiny_base("llama")
    drops = create_adapter(base, "lora", name="drops", lora_dropout=0.5)
    model = AdaptedModel(base, [drops, create_adapter(base, "lora", name="keeps")]).train()
    batch = collate(ROWS, pad_token_id=0)
    labels = batch.pop("labels")
    prefix = SharedPrefix(model, LabelLoss(model.model, model.plugged_into))

    def tokens(names: list[str]) -> int:
        with model.fast_training(), model.route(names), model.answers_from(answer_starts(ROWS)), torch.no_grad():
            return int(prefix.cut(names, ROWS, batch, labels)[0]["input_ids"].shape[1])

    whole = batch["input_ids"].shape[1]
    assert tokens(order) == whole
    assert tokens(["keeps"] * 3) == whole - len(ALIKE)
    assert tokens(["drops"] * 3) == whole
