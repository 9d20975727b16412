from collections.abc import Callable

import pytest

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.comparison import forgetting, neutral
from petune.comparison.bench import measured_skills, writing_speed
from petune.comparison.forgetting import skills
from petune.evaluation.generate import Generation
from petune.evaluation.words import mostly_cjk


@pytest.fixture
def base(tiny_base: Callable[..., Base]) -> Base:
    """A base with room for questions."""
    base = tiny_base("llama", num_hidden_layers=1, max_position_embeddings=256)
    base.tokenizer.model_max_length = 256
    return base


def test_texts_are_in_the_language_they_are_listed_under() -> None:
    assert not any(mostly_cjk([text]) for text in (*neutral.TEXTS, *neutral.QUESTIONS))
    assert all(mostly_cjk([text]) for text in (*neutral.TEXTS_ZH, *neutral.QUESTIONS_ZH))
    assert len({*neutral.TEXTS, *neutral.TEXTS_ZH}) == 8


@pytest.mark.parametrize("method", ["lora", "prefix_tuning", "prompt_tuning"])
def test_an_adapter_changes_what_is_measured_and_detaching_brings_it_back(
    method: str, base: Base, randomise: Callable[..., Adapter]
) -> None:
    model = AdaptedModel(base)
    before = skills(model)
    model.attach(randomise(create_adapter(base, method)))
    after = skills(model)
    assert after.loss != pytest.approx(before.loss, abs=1e-4)
    found = before.after(after)
    assert (found.neutral_loss_before, found.neutral_loss_after) == (before.loss, after.loss)
    model.detach("default")
    assert skills(model) == before


def test_a_fresh_adapter_that_changes_nothing_forgets_nothing(base: Base) -> None:
    before = skills(AdaptedModel(base))
    assert skills(AdaptedModel(base, [create_adapter(base, "lora")])).loss == pytest.approx(before.loss, abs=1e-5)


def test_language_and_length_of_answers(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = ["巴黎", "seven", "红色", "42", "", "honey", "四季", "moon"]
    made = [Generation(text, len(text), "stop") for text in answers]
    monkeypatch.setattr(forgetting, "generate", lambda *_, **__: made)
    found = skills(AdaptedModel(base))
    # Two English questions are answered in Chinese, one Chinese one in English; digits and silence are no language.
    assert found.other_language_share == 3 / 8
    assert found.answer_tokens == sum(map(len, answers)) / 8


def test_models_that_are_no_language_models(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base("bert", task="sequence_classification", labels=("a", "b"))
    assert measured_skills(AdaptedModel(base)) is None
    assert writing_speed(AdaptedModel(base)) is None


def test_models_without_room(tiny_base: Callable[..., Base], caplog: pytest.LogCaptureFixture) -> None:
    base = tiny_base("llama", num_hidden_layers=1, max_position_embeddings=16)
    assert measured_skills(AdaptedModel(base)) is None
    assert "forgetting is not measured on tiny-llama: " in caplog.text
    assert writing_speed(AdaptedModel(base)) is None
