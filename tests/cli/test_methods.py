import json
from collections.abc import Callable

from petune import methods


def test_methods_are_listed_with_their_settings(petune: Callable[..., str]) -> None:
    printed = petune("methods")
    for name in methods.names():
        method = methods.get(name)
        assert f"\n{name}: {method.title}\n" in printed
        assert f"{method.learning_rate:g}" in printed
        assert all(f"  {field} = " in printed for field in method.config_class.model_fields)
        assert method.paper is None or method.paper.url in printed


def test_parameters_are_counted_for_a_base(petune: Callable[..., str]) -> None:
    found = {method["name"]: method for method in json.loads(petune("methods", "--model", "tiny", "--json"))}
    assert set(found) == set(methods.names())
    assert found["full"]["trainable"] == found["full"]["total"]
    assert 0 < found["lora"]["trainable"] < found["lora"]["total"]
    printed = petune("methods", "--model", "tiny")
    assert f"{found['lora']['trainable']:,}" in printed
    assert found["bitfit"]["trainable"] is None
    assert "\nbitfit: BitFit\n  not for this base: this base has no biases" in printed
