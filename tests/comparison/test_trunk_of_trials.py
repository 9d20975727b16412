"""Trials of a search share what the blocks below their adapters make of rows; final trials compute it themselves."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from petune.comparison.run import compare
from petune.data.encoding import Encoded
from petune.training.hidden_states import HiddenStates

Keys = Callable[..., dict[str, Any]]

STEPS, SEARCH_STEPS, ROWS_A_STEP = 9, 3, 4


@pytest.fixture
def keys(
    compare_keys: Keys,
    tiny_model: Callable[..., PreTrainedModel],
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Keys:
    """The keys of a search of two rates for the uppermost of three blocks, final trials of two epochs."""
    monkeypatch.setenv("PETUNE_HOME", str(tmp_path / "home"))
    tiny_model("llama", num_hidden_layers=3).save_pretrained(tmp_path / "three")
    tiny_tokenizer.save_pretrained(tmp_path / "three")
    entry = {"method": "lora", "settings": {"layers_to_transform": [2]}}

    def make(**changes: Any) -> dict[str, Any]:
        defaults = {"models": [str(tmp_path / "three")], "methods": [entry], "trunk_cache": "1GiB", "dtype": "float32"}
        return compare_keys(**{**defaults, "rate_factors": [1, 10], "budget": STEPS, **changes})

    return make


@pytest.fixture
def read_from(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """How many batches were read from each folder of hidden states."""
    counts: Counter[Path] = Counter()
    batch = HiddenStates.batch

    def counted(self: HiddenStates, rows: Sequence[Encoded], device: torch.device) -> Tensor:
        counts[self._folder.parent] += 1
        return batch(self, rows, device)

    monkeypatch.setattr(HiddenStates, "batch", counted)
    return counts


@pytest.mark.parametrize(("share_passes", "saved"), [(False, SEARCH_STEPS), (True, 0)])
def test_the_search_shares_its_own_and_a_final_trial_has_its_own(
    share_passes: bool, saved: int, keys: Keys, read_from: Counter[Path], tmp_path: Path
) -> None:
    found = compare(keys(share_passes=share_passes))
    assert [(trial.stage, trial.status) for trial in found.trials] == [("search", "done")] * 2 + [("final", "done")]
    searches, final = tmp_path / "out" / "trunk", tmp_path / "out" / "trunk" / found.trials[-1].id
    rows = len((tmp_path / "out" / "data" / "train.jsonl").read_text(encoding="utf-8").splitlines())
    assert read_from == Counter({searches: saved, final: STEPS - math.ceil(rows / ROWS_A_STEP)})
    assert not searches.exists()
    assert not (tmp_path / "home" / "trunk").exists()


def test_results_are_those_without(keys: Keys, tmp_path: Path) -> None:
    having = compare(keys())
    without = compare(keys(trunk_cache="off", output_dir=str(tmp_path / "without")))
    for one, other in zip(having.trials, without.trials, strict=True):
        assert one.development == pytest.approx(other.development, abs=1e-4)
        assert one.train_loss == pytest.approx(other.train_loss, abs=1e-4)
