import pytest
import torch

from petune.backbone.precision import bfloat16_is_fast, pick_device, pick_dtype
from petune.errors import ConfigError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("fp32", torch.float32),
        ("float32", torch.float32),
        ("bf16", torch.bfloat16),
        ("float16", torch.float16),
    ],
)
def test_named_dtypes(name: str, dtype: torch.dtype) -> None:
    assert pick_dtype(name, CPU) is dtype


@pytest.mark.parametrize(("has", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_follows_the_cpu(has: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petune.backbone.precision.has_bfloat16", lambda: has)
    assert pick_dtype("auto", CPU) is dtype


def test_unknown_dtype() -> None:
    with pytest.raises(ConfigError, match=r"dtype 'bflot16' is unknown. Did you mean 'bfloat16'.* auto, float32"):
        pick_dtype("bflot16", CPU)


def test_auto_device() -> None:
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "device 'gpu' is unknown; use auto, cpu, cuda"),
        ("meta", "device 'meta' is unknown"),
        ("cuda:99", "device 'cuda:99' was asked for and this machine has"),
        ("cpu:1", "this machine has 1 of that type"),
    ],
)
def test_device_that_cannot_be_used(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pick_device(name)


@pytest.mark.gpu
def test_cuda_bfloat16() -> None:
    assert bfloat16_is_fast(torch.device("cuda")) == (torch.cuda.get_device_capability()[0] >= 8)
