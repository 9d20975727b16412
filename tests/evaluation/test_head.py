import pytest
import torch

from petune.errors import BaseModelError
from petune.evaluation import head
from petune.evaluation.head import Reading, read_log_probabilities
from petune.evaluation.passes import Query

QUERIES = [
    Query([5, 6, 7, 8, 9], [4]),
    Query([20, 21], [0, 1]),
    Query([30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40], [2, 3, 7]),
    Query([50, 51, 52], [1]),
]


def read_all(runner, queries, batch_tokens):
    reading = Reading(queries, lambda _, rows: rows.clone(), lambda found: found)
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


def test_nothing_stays_behind(runner) -> None:
    output_head = runner.model.get_output_embeddings()

    def fail(_: int, rows: torch.Tensor) -> torch.Tensor:
        raise KeyError

    with pytest.raises(KeyError):
        read_log_probabilities(runner, [Reading(QUERIES, fail, lambda found: found)], batch_tokens=100)
    assert not output_head._forward_pre_hooks
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
