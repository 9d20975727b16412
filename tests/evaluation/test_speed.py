import itertools
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from petune.adapted_model import AdaptedModel
from petune.adapter import create_adapter
from petune.backbone.base import Base
from petune.errors import DataError
from petune.evaluation import speed
from petune.evaluation.speed import tokens_per_second


@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_every_answer_is_as_long(
    architecture: str, tiny_base: Callable[..., Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AdaptedModel(tiny_base(architecture))
    lengths = []
    generate = model.model.generate

    def noting(**inputs: object) -> object:
        sequences = generate(**inputs)
        lengths.append(sequences.shape[1])
        return sequences

    monkeypatch.setattr(model.model, "generate", noting)
    found = tokens_per_second(model, ["one", "two words"], new_tokens=5)
    prompt = 1 if architecture == "t5" else len("two words")
    assert lengths == [prompt + 5] * 3
    assert found is not None
    assert found > 0


def test_the_versions_of_a_prompt_make_one_answer(
    tiny_base: Callable[..., Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_base("llama", num_hidden_layers=1)
    model = AdaptedModel(base, [create_adapter(base, "prompt_tuning", num_virtual_tokens=2, num_prompts=3)])
    seconds = itertools.count()
    written = []
    generate = model.model.generate

    def noting(**inputs: object) -> object:
        written.append(generate(**inputs))
        return written[-1]

    monkeypatch.setattr(model.model, "generate", noting)
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: float(next(seconds))))
    assert tokens_per_second(model, ["one", "two words"], new_tokens=5) == 2 * 5
    assert len(written[0]) == 2 * 3


def test_with_an_adapter_and_without_room(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base("llama", num_hidden_layers=1)
    model = AdaptedModel(base, [create_adapter(base, "prefix_tuning", num_virtual_tokens=10)])
    assert tokens_per_second(model, ["one"], new_tokens=3) is not None
    assert tokens_per_second(model, ["x" * 100], new_tokens=20) is None
    with pytest.raises(DataError, match="fill the model's context"):
        tokens_per_second(model, ["x" * 200])
