"""Whatever an adapter's folder holds, loading it works or is refused as damaged, in one line and at once."""

import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from petune import methods
from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.checkpoint import peft
from petune.checkpoint.folder import load_adapter, save_adapter
from petune.checkpoint.made_for import base_of, task_of
from petune.checkpoint.manifest import FILE_NAME, file_digest, tensors_digest
from petune.errors import AdapterFormatError, ArtifactError, BaseMismatchError

Tensors = dict[str, torch.Tensor]
METHODS = [name for name in methods.names() if methods.get(name).trains and methods.get(name).shares_batch]
OPTIONS: dict[str, dict[str, Any]] = {
    "llama_adapter": {"gate_activation": "none", "shared_gate": True}
}  # as PEFT has it
IN_PEFT = [name for name in METHODS if name in peft.LAYOUTS]
HOSTILE: tuple[Any, ...] = (
    None, "", "x", -1, 0, 0.5, 10**30, 1e308, float("nan"), float("inf"), [], {}, [None], [[]], ["x"], [-1], [10**9],
    {"a": {}}, {"x": -1}, {"": None}, True, "(a+)+$" * 30, "*" * 2000, "[" * 500,
)  # fmt: skip
SAMPLE = 30
SECONDS = 5.0  # far above what one takes, for busy machines


@pytest.fixture
def folder_of(
    tmp_path: Path, tiny_base_for: Callable[..., Base], randomise: Callable[..., Adapter]
) -> Callable[[str], tuple[Path, Base]]:
    """Save an adapter of a method, and return its folder and its base anew: ``folder_of("lora")``."""

    def save(method: str) -> tuple[Path, Base]:
        made = tiny_base_for(method)
        adapter = randomise(create_adapter(made, method, **OPTIONS.get(method, {})))
        return save_adapter(AdaptedModel(made, [adapter]), tmp_path / "adapter"), tiny_base_for(method)

    return save


def first(tensors: Tensors) -> str:
    return min(tensors)


def renamed(tensors: Tensors) -> None:
    for name in list(tensors):
        tensors[f"other.{name}"] = tensors.pop(name)


def filled(value: float) -> Callable[[Tensors], Any]:
    return lambda tensors: tensors[first(tensors)].view(-1)[:1].fill_(value)


DAMAGE: dict[str, Callable[[Tensors], Any]] = {
    "missing": lambda t: t.pop(first(t)),
    "none": lambda t: t.clear(),
    "extra": lambda t: t.update({f"{first(t)}.extra": t[first(t)].clone()}),
    "renamed": renamed,
    "flat": lambda t: t.update({first(t): t[first(t)].flatten()[:-1].clone()}),
    "longer": lambda t: t.update({first(t): torch.cat([t[first(t)]] * 2)}),
    "scalar": lambda t: t.update({first(t): torch.tensor(1.0)}),
    "empty": lambda t: t.update({first(t): torch.zeros(0)}),
    "integers": lambda t: t.update({first(t): t[first(t)].to(torch.int32)}),
    "nan": filled(float("nan")),
    "infinite": filled(float("-inf")),
}


@pytest.mark.parametrize(
    ("method", "as_peft"), [*((name, False) for name in METHODS), *((name, True) for name in IN_PEFT)]
)
@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_tensors_of_every_method_are_refused(
    case: str, method: str, as_peft: bool, folder_of: Callable[[str], tuple[Path, Base]]
) -> None:
    path, base = folder_of(method)
    weights = path / peft.WEIGHTS_FILE
    tensors = load_file(weights)
    DAMAGE[case](tensors)
    save_file(tensors, weights)
    if as_peft:
        (path / FILE_NAME).unlink()
    else:  # the manifest vouches for what is there
        content = json.loads((path / FILE_NAME).read_text())
        content["files"][peft.WEIGHTS_FILE] = file_digest(weights)
        content["digest"] = tensors_digest(tensors)
        (path / FILE_NAME).write_text(json.dumps(content))
    with pytest.raises(AdapterFormatError) as caught:
        load_adapter(path, base)
    assert "\n" not in str(caught.value)
    assert peft.WEIGHTS_FILE in str(caught.value) or "tensors do not fit method" in str(caught.value)


def mutations(content: dict[str, Any], *inside: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield copies of ``content`` in which one field of the part ``inside`` has a hostile value."""
    text = json.dumps(content)
    part = content
    for key in inside:
        part = part[key]
    for field in part:
        for value in HOSTILE:
            copy = json.loads(text)
            target = copy
            for key in inside:
                target = target[key]
            target[field] = value
            yield f"{'.'.join((*inside, field))}={str(value)[:20]!r}", copy


@pytest.mark.parametrize(
    ("method", "inside"), [*((name, ("config",)) for name in METHODS), (METHODS[0], ()), (METHODS[0], ("base",))]
)
def test_hostile_fields_of_petune_json(
    method: str, inside: tuple[str, ...], folder_of: Callable[[str], tuple[Path, Base]]
) -> None:
    path, base = folder_of(method)
    file = path / FILE_NAME
    _all_are_refused(path, base, file, [*mutations(json.loads(file.read_text()), *inside)])


@pytest.mark.parametrize("method", IN_PEFT)
def test_hostile_fields_of_adapter_config_json(method: str, folder_of: Callable[[str], tuple[Path, Base]]) -> None:
    path, base = folder_of(method)
    (path / FILE_NAME).unlink()
    file = path / peft.CONFIG_FILE
    _all_are_refused(path, base, file, [*mutations(json.loads(file.read_text()))])


def _all_are_refused(path: Path, base: Base, file: Path, cases: list[tuple[str, dict[str, Any]]]) -> None:
    """Load some of the cases; only errors about damaged files may come out, each at once."""
    refused = 0
    for label, content in random.Random(1).sample(cases, SAMPLE):
        file.write_text(json.dumps(content))
        for read in (base_of, task_of, lambda folder: load_adapter(folder, base)):
            started = time.monotonic()
            try:
                read(path)
            except Exception as error:
                refused += 1
                found = (label, type(error).__name__, str(error))
                assert isinstance(error, ArtifactError), found  # noqa: PT017 - the test is about which errors come out
                assert "\n" not in str(error), found  # noqa: PT017
            assert time.monotonic() - started < SECONDS, label
    assert refused > SAMPLE // 6  # many fields may hold anything


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"a": 1', "[" * 100_000, "\x00", "9" * 5000])
@pytest.mark.parametrize("name", [FILE_NAME, peft.CONFIG_FILE])
def test_files_that_are_no_settings(name: str, text: str, saved: Path, tiny_base: Callable[..., Base]) -> None:
    if name == peft.CONFIG_FILE:
        (saved / FILE_NAME).unlink()
    (saved / name).write_text(text)
    for read in (base_of, task_of, lambda folder: load_adapter(folder, tiny_base())):
        with pytest.raises(AdapterFormatError, match=rf"{name}"):
            read(saved)


def test_tokens_of_an_adapter_are_a_list_and_no_file(
    saved: Path, tmp_path: Path, tiny_base: Callable[..., Base]
) -> None:
    content = json.loads((saved / FILE_NAME).read_text())
    secret = tmp_path / "secret.txt"
    secret.write_text("a secret\n", encoding="utf-8")
    content["config"]["new_tokens"] = str(secret)
    (saved / FILE_NAME).write_text(json.dumps(content))
    base = tiny_base()
    with pytest.raises(AdapterFormatError, match=r"new_tokens is '.*secret\.txt', expected the list of its tokens"):
        load_adapter(saved, base)
    assert base.new_tokens == ()


def test_a_vocabulary_that_was_resized_is_another_base(saved: Path, tiny_base: Callable[..., Base]) -> None:
    with pytest.raises(BaseMismatchError, match="vocabulary size: 288 expected, 289 found"):
        load_adapter(saved, tiny_base(vocab_size=289))
