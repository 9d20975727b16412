"""Every error has the exit code that the picture in the module draws."""

import re

import pytest

from petune import errors

KINDS = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
DRAWN = dict(re.findall(r"^[│├└─ ]*(\w+) +(\d)  ", errors.__doc__ or "", flags=re.MULTILINE))


def test_the_picture_shows_every_error() -> None:
    assert set(DRAWN) | {"PetuneError", "Interrupted"} == set(KINDS)


@pytest.mark.parametrize("name", DRAWN)
def test_the_exit_code_is_the_one_drawn(name: str) -> None:
    assert KINDS[name]("message").exit_code == int(DRAWN[name])


@pytest.mark.parametrize(("number", "code"), [(2, 130), (15, 143)])
def test_a_signal_s_exit_code_is_the_shell_s(number: int, code: int) -> None:
    assert errors.Interrupted("stopped", number).exit_code == code


def test_the_nearest_name_is_offered_only_where_there_is_one() -> None:
    assert errors.nearest("lerning_rate", ["learning_rate", "seed"]) == " Did you mean 'learning_rate'?"
    assert errors.nearest("zzz", ["learning_rate", "seed"]) == ""
