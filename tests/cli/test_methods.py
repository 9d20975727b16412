import json
from collections.abc import Callable
from typing import Any

import pytest

from petune import methods


def test_methods_are_listed_with_their_settings(petune: Callable[..., str]) -> None:
    printed = petune("methods")
    for name in methods.names():
        method = methods.get(name)
        assert f"\n{name}: {method.title}\n" in printed
        assert f"{method.learning_rate:g}" in printed
        assert all(f"  {field} = " in printed for field in method.config_class.model_fields)
        assert method.paper is None or method.paper.url in printed
    assert "  petune compare also tries r=2 lora_alpha=4, r=32 lora_alpha=64\n" in printed


def test_parameters_are_counted_for_a_base(petune: Callable[..., str]) -> None:
    found = {method["name"]: method for method in json.loads(petune("methods", "--model", "tiny", "--json"))}
    assert set(found) == set(methods.names())
    assert found["full"]["trainable"] == found["full"]["total"]
    assert 0 < found["lora"]["trainable"] < found["lora"]["total"]
    printed = petune("methods", "--model", "tiny")
    assert f"{found['lora']['trainable']:,}" in printed
    assert found["bitfit"]["trainable"] is None
    assert "\nbitfit: BitFit\n  not for this base: this base has no biases" in printed


def test_a_base_may_be_trusted_and_of_a_revision(petune: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def list_methods(model: str | None, **options: Any) -> list[Any]:
        asked.update(options, model=model)
        return []

    monkeypatch.setattr("petune.catalogue.list_methods", list_methods)
    petune("methods", "--model", "their/base", "--revision", "v1", "--trust-remote-code", "--json")
    assert asked == {"model": "their/base", "revision": "v1", "trust_remote_code": True}
    with pytest.raises(AssertionError, match="are of a base; give it with --model"):
        petune("methods", "--trust-remote-code")
