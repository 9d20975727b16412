from collections.abc import Callable
from typing import Any

import pytest
from torch import nn
from transformers import PreTrainedModel

from petune.comparison import machine
from petune.comparison.plan import Track
from petune.comparison.unit import draws_random_numbers, memory_of, units_of

Tracks = Callable[..., Track]


def sizes(track: Track, *, share: bool = True) -> list[int]:
    """Return how many trials there are in each unit of the first round."""
    units = units_of(track.search_jobs(0, track.candidates), [track], share=share)
    assert [job for unit in units for job in unit.jobs] == track.search_jobs(0, track.candidates)
    assert {unit.base for unit in units} == {track.survey.name}
    return [len(unit.jobs) for unit in units]


def test_a_search_shares_a_pass(track: Tracks) -> None:
    found = track(rate_factors=[1, 3, 10])
    assert sizes(found) == [3]
    assert sizes(found, share=False) == [1, 1, 1]


def test_final_trials_never_do(track: Tracks) -> None:
    found = track(seeds=[1, 2])
    assert [len(unit.jobs) for unit in units_of(found.final_jobs(found.candidates[0]), [found], share=True)] == [1, 1]


@pytest.mark.parametrize(
    ("entry", "changes"),
    [
        ("full", {}),  # it changes the weights that the others need
        ({"method": "lora", "settings": {"lora_dropout": 0.1}}, {}),
        ("lora", {"budget_unit": "seconds"}),
        ({"method": "hard_prompts", "search": {"templates": [["{{ text }} is"], ["{{ text }}:"]]}}, {}),
    ],
)
def test_what_runs_alone(entry: Any, changes: dict[str, Any], track: Tracks) -> None:
    found = track(methods=[entry], **{"rate_factors": [1, 3], **changes})
    assert sizes(found) == [1] * len(found.candidates)


def test_only_what_fits_together_shares_a_pass(track: Tracks) -> None:
    entry = {"method": "lora", "search": {"new_tokens": [[], ["<row>"]], "r": [2, 4]}}
    assert sizes(track(methods=[entry])) == [2, 2]


def test_a_pass_is_as_large_as_memory_allows(track: Tracks, monkeypatch: pytest.MonkeyPatch) -> None:
    found = track(rate_factors=[1, 3, 10])
    jobs = found.search_jobs(0, found.candidates)
    cost = found.cost(jobs[0])
    assert memory_of(jobs, found) == 3 * cost.memory - 2 * cost.weights
    monkeypatch.setattr(machine, "memory", lambda device: 2 * (2 * cost.memory - cost.weights))
    assert sizes(found) == [2, 1]
    monkeypatch.setattr(machine, "memory", lambda device: cost.memory)
    assert sizes(found) == [1, 1, 1]


def test_which_models_draw_random_numbers(tiny_model: Callable[..., PreTrainedModel]) -> None:
    assert not draws_random_numbers(tiny_model("llama"))
    assert draws_random_numbers(tiny_model("llama", attention_dropout=0.1))
    assert draws_random_numbers(nn.Sequential(nn.Dropout(0.1)))
    assert not draws_random_numbers(nn.Sequential(nn.Dropout(0.0)))
