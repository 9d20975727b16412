"""Rows draw their own tokens."""

from collections import Counter

import torch

from petune.evaluation.generate import generate
from petune.evaluation.options import GenerationOptions
from petune.evaluation.sampling import row_sampling
from petune.evaluation.stream import stream

HOT = GenerationOptions(max_new_tokens=8, temperature=1.5, seed=3)
PROMPTS = ["one", "two and more", "three", "four and much more than that", "five"]


def test_tokens_come_as_often_as_they_are_likely() -> None:
    scores = torch.tensor([0.0, 1.0, -torch.inf, 2.0, 0.5])
    (draw,) = row_sampling(GenerationOptions(temperature=0.7, seed=5), range(4000))
    ids = torch.zeros(4000, 1, dtype=torch.int64)
    found = Counter(draw(ids, scores.expand(4000, -1)).argmax(-1).tolist())
    for token, share in enumerate((scores / 0.7).softmax(-1).tolist()):
        assert abs(found[token] / 4000 - share) < 0.03, token
    assert found[2] == 0
    (draw,) = row_sampling(GenerationOptions(temperature=0.7, top_k=2), range(200))
    assert set(draw(ids[:200], scores.expand(200, -1)).argmax(-1).tolist()) == {1, 3}


def test_each_call_and_each_row_draws_anew() -> None:
    (draw,) = row_sampling(HOT, range(50))
    ids, scores = torch.zeros(50, 1, dtype=torch.int64), torch.zeros(50, 1000)
    first, second = (draw(ids, scores).argmax(-1) for _ in range(2))
    assert len(set(first.tolist())) > 40
    assert (first != second).sum() > 40


def test_a_row_s_text_depends_on_the_seed_and_its_number_alone(runner) -> None:
    whole = generate(runner, PROMPTS, HOT)
    for size in (1, 2):
        parts = [generate(runner, PROMPTS[i : i + size], HOT, first_row=i) for i in range(0, len(PROMPTS), size)]
        assert [row for part in parts for row in part] == whole
    alone = HOT.model_copy(update={"batch_tokens": 1})
    assert generate(runner, PROMPTS, alone) == whole
    same = generate(runner, PROMPTS[:1] * 4, HOT)
    assert len({row.text for row in same}) > 1, "equal prompts draw by their numbers"
    assert "".join(stream(runner, PROMPTS[0], HOT)) == whole[0].text


def test_beams_and_greedy_rows_draw_nothing() -> None:
    assert not row_sampling(GenerationOptions(), [0])
    assert not row_sampling(GenerationOptions(temperature=1.0, num_beams=2), [0])
