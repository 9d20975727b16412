"""Queries that share passes over the model."""

import random

import pytest

from petune.evaluation.head import Reading, read_log_probabilities
from petune.evaluation.passes import Pass, Query, passes_for


def test_a_query_is_answered_on_the_way_of_a_longer_one() -> None:
    short, longest, longer = Query([5, 6, 7], [2]), Query([5, 6, 7, 8, 9], [2, 3, 4]), Query([5, 6, 7, 8], [2, 3])
    assert passes_for([short, longest, longer]) == [Pass(Query([5, 6, 7, 8, 9], [2, 3, 4]), (0, 1, 2))]


def test_positions_of_a_pass_are_those_of_all_its_queries() -> None:
    (one,) = passes_for([Query([5, 6, 7, 8], [1, 3]), Query([5, 6, 7], [1, 2])])
    assert one == Pass(Query([5, 6, 7, 8], [1, 2, 3]), (0, 1))


def test_what_is_behind_the_last_position_keeps_none_apart() -> None:
    (one,) = passes_for([Query([5, 6, 7], [1]), Query([5, 6, 8], [1])])
    assert one.answers == (0, 1)
    assert one.query.length == 2


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Query([5, 6, 7], [2]), Query([5, 9, 7, 8], [2, 3])),
        (Query([5, 6, 7], [2]), Query([5, 6, 7, 8], [1, 2, 3])),
        (Query([5, 6, 7], [2], whole=True), Query([5, 6, 7, 8], [2, 3], whole=True)),
        (Query([5, 6, 7], [2], whole=True), Query([5, 6, 8], [2], whole=True)),
        (Query([5, 6, 7], [2], whole=True), Query([5, 6, 7, 8], [2, 3])),
    ],
    ids=["another token", "another beginning of the answer", "read whole", "read whole behind", "one read whole"],
)
def test_queries_that_differ_have_passes_of_their_own(first: Query, second: Query) -> None:
    assert [one.answers for one in passes_for([first, second])] == [(0,), (1,)]
    assert [one.answers for one in passes_for([second, first])] == [(0,), (1,)]


def test_the_same_sequence_read_whole_is_run_once() -> None:
    queries = [Query([5, 6, 7], [1], whole=True), Query([5, 6, 7], [1, 2], whole=True)]
    assert passes_for(queries) == [Pass(Query([5, 6, 7], [1, 2], whole=True), (0, 1))]


def test_no_query_is_lost_and_no_pass_could_be_spared() -> None:
    chance = random.Random(0)
    queries = []
    for _ in range(200):
        ids = [chance.randrange(2) for _ in range(chance.randrange(2, 7))]
        first = chance.randrange(len(ids))
        queries.append(Query(ids, sorted({first, chance.randrange(first, len(ids))}), whole=chance.random() < 0.3))
    passes = passes_for(queries)
    assert sorted(number for one in passes for number in one.answers) == list(range(200))
    for one in passes:
        for query in (queries[number] for number in one.answers):
            assert query.read == (one.query.read if query.whole else one.query.read[: query.length])
            assert set(query.positions) <= set(one.query.positions)
            assert query.positions[0] == one.query.positions[0]
    # A query alone is neither another one nor the beginning of one.
    for one in passes:
        for other in passes:
            a, b = one.query, other.query
            if one is not other and (a.whole, a.positions[0]) == (b.whole, b.positions[0]):
                assert a.read != (b.read if a.whole else b.read[: a.length])


def test_readings_get_what_they_would_alone(runner, full_log_probabilities) -> None:
    first = Reading([Query([5, 6, 7, 8], [1, 3]), Query([20, 21], [0])], lambda i, first, rows: rows.clone() + i, tuple)
    second = Reading([Query([5, 6, 7], [1, 2]), Query([5, 6], [1])], lambda _, first, rows: rows.clone(), tuple)
    ran: list[int] = []
    handle = runner.model.register_forward_pre_hook(lambda m, a, k: ran.append(len(k["input_ids"])), with_kwargs=True)
    both = read_log_probabilities(runner, [first, second], batch_tokens=1000)
    assert sum(ran) == 2
    handle.remove()
    for reading, found in zip((first, second), both, strict=True):
        for i, (query, got) in enumerate(zip(reading.queries, found, strict=True)):
            expected = full_log_probabilities(query.input_ids)[list(query.positions)]
            if reading is first:
                expected = expected + i
            assert (got - expected).abs().max() < 1e-4


def test_no_reading_needs_no_pass(runner) -> None:
    assert read_log_probabilities(runner, [], batch_tokens=10) == []
    assert read_log_probabilities(runner, [Reading([], lambda _, first, rows: rows, tuple)], batch_tokens=10) == [()]
