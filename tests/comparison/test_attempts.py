from collections.abc import Callable

from petune.comparison.attempts import Attempts
from petune.comparison.plan import Track
from petune.comparison.unit import Unit


def test_a_trial_is_begun_again_and_then_given_up(track: Callable[..., Track]) -> None:
    found = track()
    (job,) = found.final_jobs(found.candidates[0])
    attempts = Attempts(retries=1)
    assert attempts.after_loss(Unit((job,)), ended=[], reason="killed") == ([Unit((job,))], [])
    again, (record,) = attempts.after_loss(Unit((job,)), ended=[], reason="killed")
    assert again == []
    assert (record.id, record.status, record.reason) == (job.id, "failed", "killed (begun 2 times, with the same end)")
    again, (record,) = Attempts(retries=0).after_loss(Unit((job,)), ended=[], reason="full", status="out_of_memory")
    assert (again, record.status, record.reason) == ([], "out_of_memory", "full")


def test_those_of_a_shared_pass_come_again_one_by_one(track: Callable[..., Track]) -> None:
    found = track(seeds=[1, 2, 3])
    first, second, third = found.final_jobs(found.candidates[0])
    again, given_up = Attempts(retries=0).after_loss(Unit((first, second, third)), ended=[first.id], reason="killed")
    assert (again, given_up) == ([Unit((second,)), Unit((third,))], [])
    assert Attempts(retries=0).after_loss(Unit((first,)), ended=[first.id], reason="killed") == ([], [])
