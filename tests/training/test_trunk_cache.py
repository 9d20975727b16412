"""Training with the trunk cache: the same losses, the lower blocks run once a row, and reasons where there is none."""

import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from petune.backbone.base import Base
from petune.data.encoding import Encoded
from petune.errors import ConfigError
from petune.sites.last_block import last_feed_forward
from petune.sites.trunk import Trunk
from petune.training.hidden_states import HiddenStates
from petune.training.recipe import Recipe
from petune.training.run import train
from petune.training.trunk_cache import TrunkCache, _probed

ON = {"trunk_cache": "1GiB"}
TOP = {"method": "lora", "r": 2, "layers_to_transform": [2]}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the caches of these tests lie."""
    monkeypatch.setenv("PETUNE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "trunk"


def counted(base: Base) -> list[int]:
    """Return a list that grows by one whenever the lowest block is run."""
    last_feed_forward(base.model, base.structure)  # measured once for a base, by passes of its own
    calls: list[int] = []
    base.model.model.layers[0].self_attn.register_forward_hook(lambda *_: calls.append(1))
    return calls


def losses(result: Any) -> list[float]:
    return [entry["loss"] for entry in result.history if "loss" in entry]


@pytest.mark.parametrize(
    "settings",
    [
        TOP,
        {"method": "lora", "r": 2, "layers_to_transform": [1, 2], "lora_dropout": 0.3},
        {"method": "llama_adapter", "adapter_layers": 1},
        {"method": "full", "trainable_parameters": ["*.layers.2.*", "lm_head.weight"]},
    ],
    ids=["lora", "lora with dropout", "llama_adapter", "full"],
)
def test_losses_and_adapter_are_those_without(
    settings: dict[str, Any], tiny_base: Callable[..., Base], keys: Callable[..., Any], tmp_path: Path, cache: Path
) -> None:
    recipe = keys(**settings, num_train_epochs=3, eval_data=str(tmp_path / "eval.jsonl"))
    plain = train({**recipe, "output_dir": str(tmp_path / "plain")}, base=tiny_base("llama"))
    base = tiny_base("llama")
    calls = counted(base)
    cached = train({**recipe, **ON}, base=base)
    assert losses(cached) == pytest.approx(losses(plain), abs=1e-6)
    assert cached.eval_metrics["loss"] == pytest.approx(plain.eval_metrics["loss"], abs=1e-6)
    theirs = plain.model.adapter("default").tensors()
    for name, tensor in cached.model.adapter("default").tensors().items():
        torch.testing.assert_close(tensor, theirs[name], atol=1e-5, rtol=1e-4)
    assert not list(cache.iterdir())
    # Seven micro-batches in the first epoch, three passes of the probe, and one evaluation an epoch.
    assert len(calls) <= 7 + 3 + 3


def test_a_block_that_is_computed_again_in_the_backward_pass_is_seen_once(tmp_path: Path) -> None:
    rows = [Encoded([1, 2], [1, 2], "rows:1"), Encoded([3], [3], "rows:2")]
    entry, device = torch.nn.Identity(), torch.device("cpu")
    states = HiddenStates(tmp_path / "states", rows, 4, torch.float32)
    cache = TrunkCache(Trunk([torch.nn.Identity()], entry), states, device)
    hidden = torch.randn(2, 2, 4)
    with cache.over(rows):
        entry(hidden)
        entry(hidden)
    assert states.knows(rows)
    assert torch.equal(states.batch(rows[:1], device), hidden[:1])
    cache.close(keep=False)


def test_the_last_epochs_never_run_the_trunk(
    tiny_base: Callable[..., Base], keys: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    def runs(epochs: int) -> int:
        base = tiny_base("llama")
        calls = counted(base)
        train(keys(**TOP, **ON, num_train_epochs=epochs), base=base, overwrite=True)
        return len(calls)

    with caplog.at_level(logging.INFO, "petune"):
        assert runs(2) == runs(6)
    assert "trunk cache: what 2 of 3 blocks make of the rows" in caplog.text


def test_a_kept_cache_serves_the_next_run_and_no_other(
    tiny_base: Callable[..., Base], keys: Callable[..., Any], cache: Path
) -> None:
    kept = {**ON, "keep_trunk_cache": True}
    first = train(keys(**TOP, **kept, num_train_epochs=1), base=tiny_base("llama"))
    assert len(list(cache.iterdir())) == 1

    base = tiny_base("llama")
    calls = counted(base)
    again = train(keys(**TOP, **kept, num_train_epochs=1), base=base, overwrite=True)
    assert len(calls) == 3  # the probe alone
    assert losses(again) == pytest.approx(losses(first), abs=1e-6)

    changed = tiny_base("llama")
    with torch.no_grad():
        changed.model.model.layers[0].mlp.up_proj.weight[0, 0] += 1e-3
    calls = counted(changed)
    train(keys(**TOP, **kept, num_train_epochs=1), base=changed, overwrite=True)
    assert len(calls) > 3
    assert len(list(cache.iterdir())) == 2

    above = tiny_base("llama")
    with torch.no_grad():
        above.model.model.layers[2].mlp.up_proj.weight[0, 0] += 1e-3
    calls = counted(above)
    train(keys(**TOP, **kept, num_train_epochs=1), base=above, overwrite=True)
    assert len(calls) == 3  # what lies above the trunk changes nothing in it


def test_a_kept_cache_outlives_a_run_that_keeps_none_and_what_a_killed_run_left_does_not(
    tiny_base: Callable[..., Base], keys: Callable[..., Any], cache: Path
) -> None:
    train(keys(**TOP, **ON, keep_trunk_cache=True), base=tiny_base("llama"))
    (kept,) = cache.iterdir()
    left = cache / ("0" * 64)
    left.mkdir()
    (left / "hidden.bin").write_bytes(b"half of it")
    for _ in range(2):
        base = tiny_base("llama")
        calls = counted(base)
        train(keys(**TOP, **ON), base=base, overwrite=True)
        assert len(calls) == 3  # the probe alone
        assert list(cache.iterdir()) == [kept]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"method": "prefix_tuning"}, "the adapter reaches down to the lowest block"),
        ({**TOP, "trunk_cache": "100"}, "it needs .* KiB, and --trunk-cache allows 100 bytes"),
        ({**TOP, "num_train_epochs": 1}, "no row comes twice, and --keep-trunk-cache does not keep it"),
    ],
)
def test_why_there_is_none_is_said(
    changes: dict[str, Any],
    reason: str,
    tiny_base: Callable[..., Base],
    keys: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    result = train(keys(**{**ON, **changes}), base=tiny_base("llama"))
    assert result.steps > 0
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("no trunk cache, the run goes on without: ")
    assert re.search(reason, warning)


def test_a_cache_that_cannot_be_written_is_said(
    tiny_base: Callable[..., Base], keys: Callable[..., Any], cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder should be")
    train(keys(**TOP, **ON), base=tiny_base("llama"))
    assert "cannot be written" in caplog.text


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(ConfigError, match=r"trunk_cache: 'much' is no size; write it like 500MB.*, or off"):
        Recipe.parse({"trunk_cache": "much"})
    with pytest.raises(ConfigError, match="keep_trunk_cache keeps what trunk_cache allows; give trunk_cache a size"):
        Recipe.parse({"keep_trunk_cache": True})
    with pytest.raises(ConfigError, match="trunk_cache_dir is where trunk_cache lies; give trunk_cache a size"):
        Recipe.parse({"trunk_cache_dir": "here"})


def test_it_lies_where_it_is_told_and_keeps_no_more_than_its_size(
    tiny_base: Callable[..., Base], keys: Callable[..., Any], cache: Path, tmp_path: Path
) -> None:
    here = {"keep_trunk_cache": True, "trunk_cache_dir": str(tmp_path / "here")}
    train(keys(**TOP, **ON, **here), base=tiny_base("llama"))
    (first,) = (tmp_path / "here").iterdir()
    assert not cache.exists()
    size = (first / "hidden.bin").stat().st_size
    other = {**TOP, "layers_to_transform": [1, 2]}
    train(keys(**other, **here, trunk_cache=str(2 * size)), base=tiny_base("llama"), overwrite=True)
    assert len(list((tmp_path / "here").iterdir())) == 2
    shutil.rmtree(first)
    train(keys(**TOP, **here, trunk_cache=str(size)), base=tiny_base("llama"), overwrite=True)
    assert list((tmp_path / "here").iterdir()) == [first]


def test_a_run_may_go_on_with_or_without() -> None:
    assert Recipe.parse({}).differences(Recipe.parse({**ON, "keep_trunk_cache": True})) == []


def test_rows_are_probed_with_padding_where_their_lengths_differ() -> None:
    def lengths(*rows: int) -> list[list[int]]:
        made = [Encoded([1] * length, [1] * length, "rows") for length in rows]
        return [[len(row.input_ids) for row in _probed(made, others)] for others in (0, 1)]

    assert lengths(5, 3, 3, 3, 4) == [[3, 4], [3, 3]]
    assert lengths(3, 3, 3) == [[3, 3], [3]]
    assert lengths(4, 3) == [[3, 4], [3, 4]]
    assert lengths(3) == [[3], [3]]
