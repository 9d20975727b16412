"""pydantic's findings in our words."""

import pytest
from pydantic import Field, ValidationError, model_validator

from petune.methods.config import MethodConfig, explain, fields_of


class Example(MethodConfig):
    """Two settings and a rule."""

    size: int = Field(default=1, ge=1)
    """How many."""

    names: tuple[str, ...] = ()
    """Which."""

    @model_validator(mode="after")
    def _rule(self) -> "Example":
        if self.size > len(self.names) + 1:
            raise ValueError("more than there are names")
        return self


SHARED = "modules_to_save, new_tokens, trainable_token_indices"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"sise": 2}, f"unknown key 'sise'. Did you mean 'size'? The keys are size, names, {SHARED}"),
        ({"zzz": 2}, f"unknown key 'zzz'. The keys are size, names, {SHARED}"),
        ({"size": 0}, "'size' is 0: Input should be greater than or equal to 1"),
        ({"names": ["a", 3]}, "'names.1' is 3: Input should be a valid string"),
        ({"size": "x", "nam": 1}, "'size' is 'x': Input should be a valid integer, unable to parse string as an"
         f" integer; unknown key 'nam'. Did you mean 'names'? The keys are size, names, {SHARED}"),
    ],
)  # fmt: skip
def test_each_finding_in_one_line(keys: dict[str, object], expected: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Example.model_validate(keys)
    assert explain(caught.value, Example) == expected


def test_a_rule_over_all_settings() -> None:
    with pytest.raises(ValidationError) as caught:
        Example(size=3, names=("a",))
    assert explain(caught.value, Example) == "more than there are names"


def test_an_inherited_field_has_the_default_that_was_set_last() -> None:
    class Larger(Example):
        size: int = Field(default=3, ge=1)

    assert [*fields_of(Larger)] == [*fields_of(Example)]
    assert (fields_of(Larger)["size"].default, fields_of(Example)["size"].default) == (3, 1)
