"""The names that scripts import, and arguments of ``get_peft_model`` that are refused."""

from collections.abc import Callable

import peft
import pytest
from transformers import PreTrainedModel

from petune.compat import peft as ours
from petune.errors import ConfigError


def test_every_name_is_peft_s() -> None:
    assert list(ours.__all__) == sorted(ours.__all__)
    for name in ours.__all__:
        assert getattr(ours, name).__doc__, name
        assert hasattr(peft, name) or name == "PromptLearningConfig", name


@pytest.mark.parametrize(
    "argument", [{"mixed": True}, {"autocast_adapter_dtype": False}, {"low_cpu_mem_usage": True}], ids=str
)
def test_arguments_that_are_refused(tiny_model: Callable[..., PreTrainedModel], argument: dict[str, bool]) -> None:
    with pytest.raises(ConfigError, match=next(iter(argument))):
        ours.get_peft_model(tiny_model(), ours.LoraConfig(), **argument)


def test_the_revision_is_recorded(tiny_model: Callable[..., PreTrainedModel]) -> None:
    model = ours.get_peft_model(tiny_model(), ours.LoraConfig(), revision="v1")
    assert model.base_model.base.revision == "v1"
