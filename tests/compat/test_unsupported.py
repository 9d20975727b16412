"""Arguments of PEFT's that petune lacks."""

import pytest

from petune.compat.unsupported import refuse
from petune.errors import ConfigError


def test_what_is_off_passes_and_what_is_on_is_named() -> None:
    refuse("f", a=None, b=False)
    for value in (True, 0, "", [1]):
        with pytest.raises(ConfigError, match=r"f: b=.* is not supported by petune; leave it out"):
            refuse("f", a=None, b=value)
