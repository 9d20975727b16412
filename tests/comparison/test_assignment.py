from collections.abc import Callable

import torch

from petune.comparison.assignment import Assignment, Assignments, threads_of
from petune.comparison.plan import Track


def test_an_assignment_survives_its_way_as_json(make_track: Callable[..., Track]) -> None:
    track = make_track("lora", seeds=[1, 2], metrics=["f1"], forgetting=True, task="sequence_classification")
    jobs = tuple(track.final_jobs(track.candidates[0]))
    sent = Assignments([track], trust_remote_code=True).of(jobs)
    there = Assignment.model_validate_json(sent.model_dump_json())
    assert [order.job.id for order in there.orders] == [job.id for job in jobs]
    assert [order.job.command() for order in there.orders] == [job.command() for job in jobs]
    assert (there.task, there.labels) == ("sequence_classification", ("negative", "positive"))
    assert (there.has_head, there.trust_remote_code, there.lengths) == (True, True, track.survey.train)
    assert there.orders[0].least_memory == track.cost(jobs[0]).least_memory > 0


def test_what_cannot_work_is_known_before(make_track: Callable[..., Track]) -> None:
    track = make_track("bitfit")
    (order,) = Assignments([track]).of(tuple(track.final_jobs({}))).orders
    assert "no biases" in str(order.refused)


def test_threads_are_pinned_for_every_engine(make_track: Callable[..., Track]) -> None:
    assert threads_of(make_track().recipe.options) == torch.get_num_threads()
    assert threads_of(make_track(cpus_per_trial=3).recipe.options) == 3
