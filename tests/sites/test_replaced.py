"""Attributes that are replaced for a while."""

import pytest
from torch import nn

from petune.sites.replaced import replaced


def test_what_was_there_returns() -> None:
    module = nn.Linear(2, 2)
    module.note = "own"
    with replaced(module, {"forward": str, "note": "other"}):
        assert module.forward is str
        assert module.note == "other"
        with replaced(module, {"forward": int}):
            assert module.forward is int
        assert module.forward is str
    assert "forward" not in module.__dict__
    assert module.note == "own"


def test_it_returns_after_an_error() -> None:
    module = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="broken"), replaced(module, {"forward": str}):
        raise ValueError("broken")
    assert "forward" not in module.__dict__
