from collections.abc import Callable

import torch

from petune.comparison.assignment import Assignment, Assignments, threads_of
from petune.comparison.plan import Track
from petune.comparison.unit import Unit


def test_an_assignment_survives_its_way_as_json(track: Callable[..., Track]) -> None:
    found = track(seeds=[1, 2], metrics=["f1"], forgetting=True, task="sequence_classification")
    jobs = tuple(found.final_jobs(found.candidates[0]))
    sent = Assignments([found], trust_remote_code=True).of(Unit(jobs))
    there = Assignment.model_validate_json(sent.model_dump_json())
    assert [order.job.id for order in there.orders] == [job.id for job in jobs]
    assert [order.job.command() for order in there.orders] == [job.command() for job in jobs]
    assert (there.task, there.labels) == ("sequence_classification", ("negative", "positive"))
    assert (there.has_head, there.trust_remote_code, there.lengths) == (True, True, found.survey.train)
    assert there.orders[0].least_memory == found.cost(jobs[0]).least_memory > 0


def test_what_cannot_work_is_known_before(track: Callable[..., Track]) -> None:
    found = track(methods=["bitfit"])
    (order,) = Assignments([found]).of(Unit(tuple(found.final_jobs({})))).orders
    assert "no biases" in str(order.refused)


def test_threads_are_pinned_for_every_engine(track: Callable[..., Track]) -> None:
    assert threads_of(track().recipe.options) == torch.get_num_threads()
    assert threads_of(track(cpus_per_trial=3).recipe.options) == 3
