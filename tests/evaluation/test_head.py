from collections.abc import Callable

import pytest
import torch

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.data.encoding import Encoded
from petune.errors import BaseModelError
from petune.evaluation import head
from petune.evaluation.head import Reading, read_log_probabilities
from petune.evaluation.loss import token_loss
from petune.evaluation.passes import Query
from petune.evaluation.scoring import score_choices

QUERIES = [
    Query([5, 6, 7, 8, 9], [4]),
    Query([20, 21], [0, 1]),
    Query([30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40], [2, 3, 7]),
    Query([50, 51, 52], [1]),
]


def read_all(runner, queries, batch_tokens):
    reading = Reading(queries, lambda _, first, rows: rows.clone(), lambda found: found)
    return read_log_probabilities(runner, [reading], batch_tokens=batch_tokens)[0]


@pytest.mark.parametrize("batch_tokens", [1, 24, 10_000])
def test_equals_full_logits_whatever_the_batch(runner, full_log_probabilities, batch_tokens: int) -> None:
    for query, got in zip(QUERIES, read_all(runner, QUERIES, batch_tokens), strict=True):
        assert got.dtype == torch.float32
        expected = full_log_probabilities(query.input_ids)[list(query.positions)]
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_head_sees_scored_positions_only(runner) -> None:
    seen = []
    handle = runner.model.get_output_embeddings().register_forward_hook(lambda m, i, o: seen.append(o.shape[:2]))
    read_all(runner, QUERIES, 10_000)
    handle.remove()
    assert sum(rows for rows, _ in seen) == len(QUERIES)
    assert max(positions for _, positions in seen) == 3


def test_logits_of_a_batch_are_bounded(runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "MAX_LOGITS", 3 * len(runner.tokenizer))
    seen = []
    handle = runner.model.get_output_embeddings().register_forward_hook(lambda m, i, o: seen.append(o.numel()))
    read_all(runner, QUERIES * 3, 10_000)
    handle.remove()
    assert max(seen) <= 3 * len(runner.tokenizer)


def test_a_long_query_is_read_in_parts_and_its_blocks_run_once(
    runner, full_log_probabilities, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = torch.randint(3, 300, (90,), generator=torch.Generator().manual_seed(0)).tolist()
    # Of the last three, one begins the first, one stands at some of its positions, and one is alone.
    queries = [Query(ids, range(4, 90)), Query(ids, range(4, 40)), Query(ids, [4, 30, 31, 77]), QUERIES[0]]
    monkeypatch.setattr(head, "MAX_LOGITS", 7 * len(runner.tokenizer) + 5)
    seen: list[int] = []
    blocks: list[int] = []
    handles = [
        runner.model.get_output_embeddings().register_forward_hook(lambda m, i, o: seen.append(o.shape[1])),
        runner.model.base_model.register_forward_hook(lambda *_: blocks.append(1)),
        next(m for n, m in runner.model.named_modules() if n.endswith(".1.mlp")).register_forward_hook(
            lambda *_: blocks.append(100)
        ),
    ]
    got: dict[int, list[torch.Tensor]] = {}

    def read(number: int, first: int, part: torch.Tensor) -> torch.Tensor:
        assert first == sum(map(len, got.get(number, [])))
        got.setdefault(number, []).append(part.clone())
        return part.sum()

    (sums,) = read_log_probabilities(runner, [Reading(queries, read, list)], batch_tokens=1000)
    for handle in handles:
        handle.remove()
    assert max(seen) <= 7
    assert sum(blocks) // 100 == 2  # of the long row, and of the short one
    for number, query in enumerate(queries):
        expected = full_log_probabilities(query.input_ids)[list(query.positions)]
        torch.testing.assert_close(torch.cat(got[number]), expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(sums[number], expected.sum(), atol=1e-1, rtol=1e-5)
    assert runner.model(input_ids=torch.tensor([[1, 2, 3]])).logits.shape[1] == 3


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "opt", "gpt_neox"])
@pytest.mark.parametrize("methods", [(), ("lora",), ("prompt_tuning",), ("prompt_tuning", "prefix_tuning")])
def test_the_loss_in_parts_is_that_of_the_whole(
    architecture: str,
    methods: tuple[str, ...],
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether the model reworks its logits or not, its body is called as one or not, or reads virtual tokens before."""
    base = tiny_base(architecture)
    model = AdaptedModel(base, [randomise(create_adapter(base, name, name=name), scale=0.3) for name in methods])
    model.activate(*methods)
    ids = torch.randint(3, 259, (60,), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [Encoded(ids, ids, "r:1"), Encoded(ids[:9], [-100] * 5 + ids[5:9], "r:2")]
    with monkeypatch.context() as patch:
        patch.setattr(head, "MAX_LOGITS", 10 * base.model.config.vocab_size)
        parts = token_loss(model, rows)
    whole = token_loss(model, rows)
    assert parts.total == pytest.approx(whole.total, rel=1e-5)
    assert parts.by_origin == pytest.approx(whole.by_origin, rel=1e-5)


def test_labels_in_parts_are_scored_as_whole(runner, reviews, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = ("positive", "negative", "neither the one nor the other")
    whole = score_choices(runner, reviews, labels)
    monkeypatch.setattr(head, "MAX_LOGITS", 3 * len(runner.tokenizer))
    for part, expected in zip(score_choices(runner, reviews, labels), whole, strict=True):
        assert part.log_probabilities == pytest.approx(expected.log_probabilities, abs=1e-4)


def test_nothing_stays_behind(runner, monkeypatch: pytest.MonkeyPatch) -> None:
    output_head = runner.model.get_output_embeddings()

    def fail(_: int, first: int, rows: torch.Tensor) -> torch.Tensor:
        raise KeyError

    with pytest.raises(KeyError):
        read_log_probabilities(runner, [Reading(QUERIES, fail, lambda found: found)], batch_tokens=100)
    monkeypatch.setattr(head, "MAX_LOGITS", 1)
    with pytest.raises(KeyError):
        read_log_probabilities(runner, [Reading(QUERIES, fail, lambda found: found)], batch_tokens=100)
    assert not output_head._forward_pre_hooks
    assert not any("forward" in vars(module) for module in runner.model.modules())
    assert not runner.model._forward_pre_hooks
    assert not runner.model._forward_hooks
    assert runner.model(input_ids=torch.tensor([[1, 2, 3]])).logits.shape[1] == 3


def test_virtual_tokens_before_the_text_shift_nothing(runner) -> None:
    """A stand-in for a soft prompt: hidden states of extra positions come before those of the text."""
    expected = read_all(runner, QUERIES, 10_000)

    def lengthen(module, inputs, output):
        hidden = output.last_hidden_state
        output.last_hidden_state = torch.cat([torch.full_like(hidden[:, :1], 9.0), hidden], dim=1)
        return output

    handle = runner.model.base_model.register_forward_hook(lengthen)
    got = read_all(runner, QUERIES, 10_000)
    handle.remove()
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_a_model_without_a_head_is_refused(runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner.model, "get_output_embeddings", lambda: None)
    with pytest.raises(BaseModelError, match="has no output head over a vocabulary; use a causal language model"):
        read_all(runner, QUERIES, 100)
