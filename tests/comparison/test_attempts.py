from collections.abc import Callable

from petune.comparison.attempts import Attempts
from petune.comparison.plan import Track


def test_what_was_begun_counts_and_the_rest_comes_again(make_track: Callable[..., Track]) -> None:
    track = make_track(seeds=[1, 2, 3])
    first, second, third = unit = tuple(track.final_jobs(track.candidates[0]))
    attempts = Attempts(retries=1)
    lost = {"ended": [first.id], "begun": [first.id, second.id], "reason": "killed"}
    assert attempts.after_loss(unit, **lost) == ([(second,), (third,)], [])
    again, (record,) = attempts.after_loss((second,), ended=[], begun=[second.id], reason="killed")
    assert again == []
    assert (record.id, record.status, record.reason) == (
        second.id, "failed", "killed (begun 2 times, with the same end)",
    )  # fmt: skip
    assert attempts.after_loss((third,), ended=[], begun=[third.id], reason="killed") == ([(third,)], [])


def test_a_process_that_never_begins_is_given_up_too(make_track: Callable[..., Track]) -> None:
    track = make_track()
    unit = tuple(track.final_jobs(track.candidates[0]))
    again, (record,) = Attempts(retries=0).after_loss(
        unit, ended=[], begun=[], reason="no memory", status="out_of_memory"
    )
    assert (again, record.status, record.reason) == ([], "out_of_memory", "no memory")
