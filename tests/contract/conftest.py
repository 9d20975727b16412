"""Every method of the registry on every kind of base."""

from collections.abc import Callable

import pytest

from petune import methods
from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base

IMPOSSIBLE = {("bitfit", base): "no biases" for base in ("llama", "mistral", "qwen3", "gemma", "modernbert", "t5")}
"""Pairs of a method and a tiny base that it refuses, and why; tests/methods holds each of them to its refusal."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of impossible pairs."""
    impossible = [item for item in items if _is_impossible(item)]
    items[:] = [item for item in items if item not in impossible]
    config.hook.pytest_deselected(items=impossible)


def _is_impossible(item: pytest.Item) -> bool:
    called = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    names = {called.get(key) for key in ("method", "sharing_method", "mergeable")}
    bases = {called.get(key) for key in ("architecture", "decoder", "encoder")}
    return any((name, base) in IMPOSSIBLE for name in names for base in bases)


TRAINING = [name for name in methods.names() if methods.get(name).trains]


@pytest.fixture(params=TRAINING)
def method(request: pytest.FixtureRequest) -> str:
    """Name of a method that trains."""
    return str(request.param)


@pytest.fixture(params=[name for name in TRAINING if methods.get(name).shares_batch])
def sharing_method(request: pytest.FixtureRequest) -> str:
    """Name of a method whose rows may share a batch with rows of other adapters."""
    return str(request.param)


@pytest.fixture(params=["llama", "gpt2", "gpt_neox"])
def architecture(request: pytest.FixtureRequest) -> str:
    """A base with grouped queries, one with transposed weights, one with a fused query-key-value projection."""
    return str(request.param)


DECODERS = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "glm", "phi", "gpt2", "gpt_neox", "opt", "bloom", "falcon",
)  # fmt: skip


@pytest.fixture
def decoders() -> tuple[str, ...]:
    """Every family of decoders that the documentation names."""
    return DECODERS


@pytest.fixture(params=DECODERS)
def decoder(request: pytest.FixtureRequest) -> str:
    """One family of decoders."""
    return str(request.param)


@pytest.fixture(
    params=[
        "bert", "roberta", "xlm-roberta", "distilbert", "albert", "electra", "modernbert", "deberta-v2", "t5", "bart",
    ]
)  # fmt: skip
def encoder(request: pytest.FixtureRequest) -> str:
    """One family of encoders or of encoder-decoders."""
    return str(request.param)


@pytest.fixture
def base(architecture: str, tiny_base: Callable[..., Base]) -> Base:
    """A tiny base of the architecture."""
    return tiny_base(architecture)


@pytest.fixture
def trained(randomise: Callable[..., Adapter]) -> Callable[..., AdaptedModel]:
    """Attach a fresh adapter whose values are as if trained: ``trained(base, method, **options)``."""

    def attach(base: Base, method: str, *, seed: int = 1, **options: object) -> AdaptedModel:
        return AdaptedModel(base, [randomise(create_adapter(base, method, seed=seed, **options), seed=seed)])

    return attach
