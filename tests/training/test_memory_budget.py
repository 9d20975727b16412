"""A memory budget: what is computed again for it, in which order, and what cannot be met."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petune.backbone.base import Base
from petune.errors import ConfigError
from petune.training import loop, memory_budget
from petune.training.memory_needs import MemoryNeeds, Way
from petune.training.packing import Place, pack
from petune.training.rehearsal import Rehearsal, size
from petune.training.run import train
from petune.training.run_many import train_many

Within = Callable[[float], None]


@pytest.fixture
def within(monkeypatch: pytest.MonkeyPatch) -> Within:
    """Let a budget leave room for a share of the activations: a tiny model's are lost beside Python's own memory."""

    def settle(share: float) -> None:
        def way_within(_: int, needs: MemoryNeeds, rehearsal: Rehearsal) -> Way:
            plain = needs.of(Way())
            budget = needs.held + plain.above - int((1 - share) * plain.kept)
            return memory_budget.way_within(budget, needs, rehearsal)

        monkeypatch.setattr(loop, "way_within", way_within)

    return settle


def test_gradients_are_the_same_with_every_method(
    method: str, within: Within, tmp_path: Path, tiny_base_for: Callable[..., Base], keys: Callable[..., Any]
) -> None:
    options = keys(method=method, max_steps=2, per_device_train_batch_size=13, gradient_accumulation_steps=1)
    if method == "p_tuning_v2":
        options["prefix_dropout"] = 0.0  # which would fall differently in smaller batches
    plain = train(options, base=tiny_base_for(method), estimate=True)
    assert plain.estimate is not None
    for share in (0.9, 0.6 if method == "bitfit" else 0.4):  # biases need little kept
        within(share)
        folder = str(tmp_path / str(share))
        small = train({**options, "memory_budget": "1GiB", "output_dir": folder}, base=tiny_base_for(method))
        assert small.estimate is not None
        assert small.estimate.recomputed or small.estimate.most_tokens
        assert small.estimate.kept < plain.estimate.kept
        for ours, theirs in zip(small.history, plain.history, strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
            assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)


def test_nothing_is_done_where_there_is_room(tiny_base: Callable[..., Base], keys: Callable[..., Any]) -> None:
    estimate = train(keys(max_steps=1, memory_budget="64GiB"), base=tiny_base()).estimate
    assert estimate is not None
    assert (estimate.recomputed, estimate.most_tokens) == ("", None)


def test_cheap_parts_come_first_and_no_more_than_needed(
    within: Within, tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., Any]
) -> None:
    found = []
    for share in (0.97, 0.8, 0.45):
        within(share)
        options = keys(max_steps=1, memory_budget="1GiB", output_dir=str(tmp_path / str(share)))
        options |= {"per_device_train_batch_size": 13, "gradient_accumulation_steps": 1}
        estimate = train(options, base=tiny_base(num_hidden_layers=8)).estimate
        assert estimate is not None
        found.append(estimate)
    assert found[0].recomputed.startswith("the norms and activations of")
    assert "all of" not in found[0].recomputed
    assert "all of" in found[2].recomputed
    assert found[0].kept > found[1].kept > found[2].kept
    assert found[0].most_tokens is None


def test_the_fewest_parts_are_taken_from_the_first_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class Needs:
        held = 100

        def of(self, way: Way) -> Any:
            return type("Need", (), {"above": 50 - 10 * len(way.parts)})

    parts: Any = ["first", "second", "third"]
    for budget, count in ((150, 0), (140, 1), (131, 2), (130, 2), (120, 3)):
        assert memory_budget._fewest(parts, None, budget, Needs()) == tuple(parts[:count])  # type: ignore[arg-type]


def test_then_batches_become_smaller(
    within: Within, tiny_base: Callable[..., Base], keys: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    within(0.3)
    seen: list[tuple[int | None, int]] = []

    def watched(steps: Any, device: Any, most_tokens: int | None) -> list[list[Place]]:
        batches = pack(steps, device, most_tokens)
        seen.extend((most_tokens, size(batch)) for batch in batches)
        return batches

    monkeypatch.setattr(loop, "pack", watched)
    options = keys(max_steps=2, memory_budget="1GiB", per_device_train_batch_size=13, gradient_accumulation_steps=1)
    estimate = train(options, base=tiny_base()).estimate
    assert estimate is not None
    assert estimate.most_tokens is not None
    assert seen[-1][0] == estimate.most_tokens, "the last are those of training"
    assert all(tokens <= limit for limit, tokens in seen if limit == estimate.most_tokens)


def test_a_budget_that_cannot_be_met_names_the_least(tiny_base: Callable[..., Base], keys: Callable[..., Any]) -> None:
    with pytest.raises(
        ConfigError, match=r"a memory budget of 10\.0 MiB cannot be met: the least is [\d.]+ [MG]iB, of"
    ):
        train(keys(memory_budget="10MiB"), base=tiny_base())


def test_what_a_budget_is(keys: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"'much' is no size; write it like 500MB, 2GiB or 1\.5TB"):
        train(keys(memory_budget="much"))
    with pytest.raises(ConfigError, match="memory_budget recomputes as much as it has to, gradient_checkpointing"):
        train(keys(memory_budget="1GiB", gradient_checkpointing=True))


def test_what_reads_beyond_its_sub_layer_is_not_computed_again_without_it(
    within: Within, tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., Any]
) -> None:
    options = keys(method="bottleneck", adapter_input="residual", max_steps=2, per_device_train_batch_size=13)
    plain = train(options, base=tiny_base())
    within(0.5)
    small = train({**options, "memory_budget": "1GiB", "output_dir": str(tmp_path / "small")}, base=tiny_base())
    assert small.estimate is not None
    assert "all of" in small.estimate.recomputed
    assert "feed-forward" not in small.estimate.recomputed
    for ours, theirs in zip(small.history, plain.history, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


def test_adapters_of_one_pass_keep_within_a_budget(
    within: Within, tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., Any], write_rows: Any
) -> None:
    opening = "Say what colour this is, in one word that begins with the same letter: "
    rows = [{"prompt": f"{opening}{i}", "completion": f" {i * i}"} for i in range(16)]
    data = str(write_rows(tmp_path / "opening.jsonl", rows))
    options = {"data": data, "max_steps": 2, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}

    def histories(place: str, **more: Any) -> list[list[dict[str, Any]]]:
        recipes = [
            keys(**options, **more, output_dir=str(tmp_path / place / method), method=method)
            for method in ("lora", "prefix_tuning")
        ]
        outcomes = train_many(recipes, base=tiny_base())
        assert [outcome.error for outcome in outcomes] == [None, None]
        return [outcome.result.history for outcome in outcomes if outcome.result is not None]

    plain = histories("plain")
    within(0.6)
    for ours, theirs in zip(histories("small", memory_budget="1GiB"), plain, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
            assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)
