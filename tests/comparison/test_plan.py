from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from petune.comparison.estimate import _FORGETTING_STEPS, _FORGETTING_TOKENS, _SPEED_STEPS, Estimate
from petune.comparison.job import Job, Measures
from petune.comparison.pace import Pace
from petune.comparison.plan import Track, schedule_keys
from petune.comparison.record import Budget
from petune.errors import ConfigError
from petune.training.recipe import Recipe


def test_search_jobs_share_all_but_what_is_searched(track: Callable[..., Track]) -> None:
    found = track(rate_factors=[0.3, 1, 3, 10], budget=90, seeds=[5, 6])
    first = found.search_jobs(0, found.candidates)
    assert [job.keys["max_steps"] for job in first] == [10] * 4
    assert len({job.id for job in first}) == len({job.keys["learning_rate"] for job in first}) == 4
    without_rate = [{k: v for k, v in job.keys.items() if k != "learning_rate"} for job in first]
    assert all(keys == without_rate[0] for keys in without_rate)
    assert {(job.seed, job.stage, job.rung, job.measures.test) for job in first} == {(5, "search", 0, None)}
    (second,) = found.search_jobs(1, found.candidates[:1])
    assert (second.keys["max_steps"], second.rung, second.budget.amount) == (30, 1, 30)


def test_final_jobs_differ_in_their_seed_alone(track: Callable[..., Track]) -> None:
    found = track(seeds=[5, 6, 7], budget=8, evaluations=4)
    jobs = found.final_jobs(found.candidates[0])
    assert [job.seed for job in jobs] == [5, 6, 7]
    assert {(job.stage, job.keys["max_steps"], job.keys["eval_steps"]) for job in jobs} == {("final", 8, 2)}
    without_seed = [{k: v for k, v in job.keys.items() if k != "seed"} for job in jobs]
    assert without_seed[0] == without_seed[1] == without_seed[2]


def test_a_trial_goes_by_the_name_that_it_had_in_earlier_versions() -> None:
    job = Job(
        entry="lora r=2", stage="search", rung=0, budget=Budget(unit="steps", amount=2), settings={"r": 2},
        keys={"model": "demo", "method": "lora", "seed": 1, "r": 2, "data": "x"},
        measures=Measures(metric="accuracy", max_new_tokens=8), rows=("a", "b"),
    )  # fmt: skip
    assert job.id == "demo-lora-search0-seed1-bfe12eb95e94"
    for asked in ({"greater_is_better": False}, {"generation_speed": False}):
        measures = job.measures.model_copy(update=asked)
        assert job.model_copy(update={"measures": measures}).id != job.id


def test_entries_that_come_to_the_same_are_trials_of_their_own(track: Callable[..., Track]) -> None:
    first = track(rate_factors=[1])
    (rate,) = {found["learning_rate"] for found in first.candidates}
    second = track(methods=[{"method": first.entry.method, "settings": {"learning_rate": rate}}])
    jobs = [found.final_jobs(found.candidates[0])[0] for found in (first, second)]
    assert jobs[0].keys == jobs[1].keys
    assert jobs[0].id != jobs[1].id


def test_what_does_not_train_runs_once(track: Callable[..., Track]) -> None:
    found = track(methods=["hard_prompts"], seeds=[5, 6, 7])
    (job,) = found.final_jobs(found.candidates[0])
    assert (job.stage, job.budget.amount, job.keys.get("max_steps")) == ("floor", 0, None)
    assert found.rungs == ()


def test_a_method_that_chooses_knows_the_direction_of_the_metric_that_decides(
    track: Callable[..., Track], tmp_path: Path
) -> None:
    own = tmp_path / "errors.py"
    own.write_text("def count(predictions, references):\n    return 0.0\n", encoding="utf-8")

    def job(chooses_by: str, **keys: Any) -> Job:
        entry = {"method": "hard_prompts", "settings": {"selection_metric": chooses_by}}
        found = track(methods=[entry], metric=f"{own}:count", **keys)
        return found.final_jobs(found.candidates[0])[0]

    told = job(f"{own}:count", greater_is_better=False)
    assert told.keys["greater_is_better"] is False
    assert Recipe.parse({**told.keys, "output_dir": "x"}).run.greater_is_better is False
    assert "greater_is_better" not in job("accuracy", greater_is_better=False).keys
    assert "greater_is_better" not in job(f"{own}:count").keys
    trained = track(metric=f"{own}:count", greater_is_better=False)
    assert "greater_is_better" not in trained.final_jobs(trained.candidates[0])[0].keys


def test_a_search_over_vocabularies_is_not_decided_by_a_loss_per_token(track: Callable[..., Track]) -> None:
    entry = {"method": "lora", "search": {"new_tokens": [["one"], ["one", "two"]]}}
    with pytest.raises(
        ConfigError, match=r"several new_tokens \(\['one', 'two'\], \['one'\]\), and the loss .* per token"
    ):
        track(methods=[entry], metric="loss").check()
    track(methods=[entry], metric="accuracy").check()
    track(methods=[{**entry, "search": {"r": [2, 4]}, "settings": {"new_tokens": ["one"]}}], metric="loss").check()


def test_every_job_is_a_recipe_of_petune_train(track: Callable[..., Track]) -> None:
    for method in ("lora", "hard_prompts", "full"):
        found = track(methods=[method], rate_factors=[1, 3])
        for job in found.expected():
            assert Recipe.parse({**job.keys, "output_dir": "x"}).run.method == method
            assert "petune train" in job.command()


def test_as_many_are_expected_as_will_run(track: Callable[..., Track]) -> None:
    stages = [(job.stage, job.rung) for job in track(rate_factors=[0.3, 1, 3, 10], seeds=[1, 2]).expected()]
    assert stages == [("search", 0)] * 4 + [("search", 1)] * 2 + [("final", None)] * 2


def test_other_settings_are_tried_at_the_rate_that_was_found(track: Callable[..., Track]) -> None:
    found = track(rate_factors=[1, 3], budget=90, search_settings=True)
    chosen = found.candidates[1]
    jobs = found.search_jobs(1, [chosen])
    assert [job.settings for job in jobs] == [
        {**chosen, "r": 2, "lora_alpha": 4.0},
        {**chosen, "r": 32, "lora_alpha": 64.0},
    ]
    assert {(job.rung, job.keys["max_steps"], job.stage) for job in jobs} == {(1, 30, "search")}
    assert [job.id for job in found.rivals(1, [chosen])] == [found.search_jobs(0, [chosen])[0].id]
    assert found.rivals(0, found.candidates) == []
    assert [(job.stage, job.rung) for job in found.expected()] == [
        *[("search", 0)] * 2, *[("search", 1)] * 2, ("final", None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"search_settings": False},
        {"rate_factors": [1]},
        {"methods": ["full"]},
        {"methods": [{"method": "lora", "settings": {"learning_rate": 1e-3}}]},
        {"methods": [{"method": "lora", "settings": {"r": 4}}]},
        {"methods": [{"method": "lora", "search": {"r": [4, 16]}}]},
    ],
)
def test_nothing_is_varied_where_the_recipe_decides(track: Callable[..., Track], changes: dict[str, Any]) -> None:
    found = track(**{"rate_factors": [1, 3], "search_settings": True, **changes})
    assert not any(rung.varied for rung in found.rungs)


def test_what_would_take_the_rows_room_is_not_tried(track: Callable[..., Track]) -> None:
    found = track(methods=["prefix_tuning"], rate_factors=[1, 3], search_settings=True)

    def tried(of: Track) -> list[Any]:
        settings = [job.settings for job in of.search_jobs(1, of.candidates[:1])]
        return [own.get("num_virtual_tokens", own.get("prefix_init")) for own in settings]

    assert tried(found) == [5, 50, "random"]
    short = replace(found, survey=replace(found.survey, limit=found.survey.longest_row + 20))
    assert tried(short) == [5, "random"]


def test_other_settings_are_taken_to_cost_what_the_entry_s_do(
    track: Callable[..., Track], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def pace_of(base: Any, task: Any, rows: Any, method: str, config: dict[str, Any], options: Any) -> Pace:
        measured.append(config["r"])
        return Pace(3.0, 1.0, 100.0, 7.0, 11.0, 10**6)

    monkeypatch.setattr("petune.comparison.survey.pace_of", pace_of)

    def measures(**changes: Any) -> list[int]:
        measured.clear()
        found = track(rate_factors=[1, 3], **changes)
        costs = [found.cost(job) for job in found.expected()]
        assert all(cost.seconds > 0 for cost in costs)
        return sorted(measured)

    assert measures(search_settings=True) == [8]
    assert measures(methods=[{"method": "lora", "search": {"r": [4, 16]}}]) == [4, 16]


def test_identity(track: Callable[..., Track], tmp_path: Any) -> None:
    job = track().final_jobs({"learning_rate": 1e-3})[0]
    assert track(keep_adapters=False).final_jobs({"learning_rate": 1e-3})[0].id == job.id
    moved = job.model_copy(update={"keys": {**job.keys, "data": "elsewhere.jsonl"}})
    assert moved.id == job.id
    others = [
        track(digests=("a", "b", "other")).final_jobs({"learning_rate": 1e-3})[0],
        track(metrics=["f1"]).final_jobs({"learning_rate": 1e-3})[0],
        track(budget=3).final_jobs({"learning_rate": 1e-3})[0],
        track(weight_decay=0.5).final_jobs({"learning_rate": 1e-3})[0],
        track().final_jobs({"learning_rate": 2e-3})[0],
    ]
    assert len({other.id for other in others} | {job.id}) == 6


def test_a_search_does_not_know_the_test_rows(track: Callable[..., Track]) -> None:
    one, other = (track(digests=("a", "b", test), rate_factors=[1, 3]) for test in ("c", "d"))
    jobs = [found.search_jobs(0, found.candidates) for found in (one, other)]
    assert [job.id for job in jobs[0]] == [job.id for job in jobs[1]]
    assert all(str(one.files.test) not in str(job.model_dump()) for job in jobs[0])
    assert str(one.files.test) in str(one.final_jobs({})[0].model_dump())


def test_a_refused_method(track: Callable[..., Track]) -> None:
    assert "no biases" in str(track(methods=["bitfit"]).refusal)
    assert track().refusal is None


def test_a_budget_too_small_is_told_before_anything_runs(track: Callable[..., Track]) -> None:
    found = track(budget=3, budget_unit="tokens")
    with pytest.raises(ConfigError, match="3 tokens is too small for one step of 4 rows"):
        found.final_jobs(found.candidates[0])


@pytest.mark.parametrize(("steps", "evaluations", "every"), [(100, 8, 13), (5, 8, 1), (1, 1, 1), (9, 2, 5)])
def test_evaluations_are_no_more_than_asked_for(steps: int, evaluations: int, every: int) -> None:
    keys = schedule_keys(steps, evaluations)
    assert keys["eval_steps"] == every
    assert -(-steps // every) <= evaluations


@pytest.fixture
def paced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a learned token take three seconds, one that is read one, a written one 100, an update 7, a checkpoint 11."""
    monkeypatch.setattr("petune.comparison.survey.pace_of", lambda *given: Pace(3.0, 1.0, 100.0, 7.0, 11.0, 10**6))


def seconds_of(found: Track, *, rung: int | None = None) -> float:
    jobs = found.final_jobs(found.candidates[0]) if rung is None else found.search_jobs(rung, found.candidates)
    return found.cost(jobs[0]).time(speed=1.0)


@pytest.mark.usefixtures("paced")
def test_time_is_that_of_the_tokens(track: Callable[..., Track]) -> None:
    found = track(budget=4, evaluations=2, rate_factors=[1, 3], metric="loss", reduction=2)
    rows = found.survey
    step = 4 * sum(rows.train) / len(rows.train)
    # A round of the search has half of the steps, is evaluated and saved at its end, and measured once more.
    assert seconds_of(found, rung=0) == pytest.approx(2 * (3 * step + 7) + 11 + 2 * sum(rows.development))
    final = 4 * (3 * step + 7) + 2 * 11 + 3 * sum(rows.development) + sum(rows.test)
    assert seconds_of(found) == pytest.approx(final + 100 * _SPEED_STEPS)
    silent = track(budget=4, evaluations=2, rate_factors=[1, 3], metric="loss", reduction=2, generation_speed=False)
    assert seconds_of(silent) == pytest.approx(final)
    forgets = track(budget=4, evaluations=2, rate_factors=[1, 3], metric="loss", reduction=2, forgetting=True)
    assert seconds_of(forgets) - seconds_of(found) == pytest.approx(_FORGETTING_TOKENS + 100 * _FORGETTING_STEPS)


@pytest.mark.usefixtures("paced")
def test_estimates_grow_with_the_work(track: Callable[..., Track]) -> None:
    def cost(**changes: Any) -> float:
        return seconds_of(track(**changes))

    assert cost(budget=4) > cost(budget=2) > cost(methods=["hard_prompts"]) > 0
    assert cost(metrics=["exact_match"]) > cost(metrics=["accuracy"])
    # Label words are read with the loss; apart from texts they are read again.
    rows = track().survey
    assert cost(metric="accuracy") == pytest.approx(cost(metric="loss"))
    again = cost(metric="exact_match", metrics=["accuracy"]) - cost(metric="exact_match")
    assert again == pytest.approx(sum(rows.test))
    # Other metrics than the one that decides are of the test rows alone.
    apart = cost(metrics=["exact_match"], methods=["hard_prompts"]) - cost(methods=["hard_prompts"])
    assert apart == pytest.approx(100 * 64)


def test_where_nothing_can_be_measured_multiplications_are_counted(
    track: Callable[..., Track], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("petune.comparison.estimate._PART_TO_MEASURE", 10**12)  # no room for a stand-in

    def cost(**changes: Any) -> float:
        found = track(**changes)
        estimate = found.cost(found.final_jobs(found.candidates[0])[0])
        assert estimate.seconds == 0
        return estimate.multiplications

    assert cost(budget=4) > cost(budget=2) > cost(methods=["hard_prompts"]) > 0
    assert cost(methods=["full"]) > cost()
    assert cost(metrics=["exact_match"]) > cost()


def test_memory_counts_what_is_learned(track: Callable[..., Track]) -> None:
    found = {name: track(methods=[name], dtype="float32") for name in ("lora", "full")}
    costs = {name: t.cost(t.final_jobs(t.candidates[0])[0]) for name, t in found.items()}
    parameters = found["full"].survey.parameters
    assert costs["full"].least_memory == parameters * (4 + 16)
    assert parameters * 4 < costs["lora"].least_memory < costs["full"].least_memory
    assert all(cost.memory > cost.least_memory for cost in costs.values())


def test_a_quantised_base_takes_the_bytes_of_its_blocks_on_a_gpu(
    track: Callable[..., Track], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("petune.comparison.survey.Survey.pace", lambda *_, **__: None)
    monkeypatch.setattr("petune.comparison.machine.memory", lambda device: 2**30)

    def costs(**changes: Any) -> Estimate:
        found = track(methods=["lora"], dtype="float32", **changes)
        return found.cost(found.final_jobs(found.candidates[0])[0])

    plain, on_cpu = costs(), costs(quantization="8bit")
    assert on_cpu.weights < plain.weights
    assert on_cpu.least_memory >= track().survey.parameters * 4, "it is loaded plain"
    monkeypatch.setattr("petune.comparison.estimate.pick_device", lambda name: torch.device("cuda"))
    assert costs(quantization="8bit").least_memory < plain.least_memory


def test_blocks_that_a_base_does_not_have_are_refused_before_anything_runs(track: Callable[..., Track]) -> None:
    with pytest.raises(ConfigError, match=r"keeps the blocks of a \.gguf file, and .* is none; choose 8bit or 4bit"):
        track(quantization="gguf")


@pytest.mark.usefixtures("paced")
def test_no_trial_is_told_to_take_more_than_its_budget(track: Callable[..., Track]) -> None:
    def cost(**changes: Any) -> Estimate:
        found = track(methods=["lora"], **changes)
        return found.cost(found.final_jobs(found.candidates[0])[0])

    plain = cost()
    assert cost(memory_budget=f"{plain.memory - 1000}B").memory == plain.memory - 1000
    assert plain.least_memory < cost(memory_budget="1MiB").memory < plain.memory, "a run refuses less than it needs"


def test_seconds_are_their_own_estimate(track: Callable[..., Track]) -> None:
    found = track(budget=20, budget_unit="seconds")
    (job,) = found.final_jobs(found.candidates[0])
    assert found.cost(job).seconds > 20  # and what is measured afterwards
    assert "max_steps" not in job.keys


@pytest.mark.usefixtures("paced")
def test_evaluations_come_to_a_budget_of_seconds(track: Callable[..., Track]) -> None:
    one, nine = (seconds_of(track(budget=20, budget_unit="seconds", evaluations=count)) for count in (1, 9))
    assert nine - one == pytest.approx(8 * (11 + sum(track().survey.development)))
