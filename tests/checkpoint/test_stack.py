"""Stacks: several adapters in one folder, their order, and what is refused."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import petune
from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.checkpoint.folder import save_adapter
from petune.checkpoint.stack import FILE_NAME, members, save_stack
from petune.errors import AdapterFormatError, ConfigError


@pytest.fixture
def pair(tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]) -> AdaptedModel:
    """A LoRA and a network that reads what it gives, both active."""
    base = tiny_base()
    style = randomise(create_adapter(base, "lora", name="style", r=4), seed=1)
    task = randomise(create_adapter(base, "bottleneck", name="task", bottleneck_size=4), seed=2)
    model = AdaptedModel(base, [style, task])
    model.activate("style", "task")
    return model


@pytest.fixture
def ids(token_ids: Callable[..., torch.Tensor]) -> torch.Tensor:
    return token_ids(2, 6)


@pytest.mark.parametrize("names", [None, ("task", "style")], ids=["active", "named"])
@torch.no_grad()
def test_a_stack_comes_back_in_its_order(
    names: tuple[str, ...] | None,
    pair: AdaptedModel,
    ids: torch.Tensor,
    tmp_path: Path,
    tiny_base: Callable[..., Base],
) -> None:
    folder = petune.save_stack(pair, tmp_path / "both", names)
    order = names or ("style", "task")
    pair.activate(*order)
    expected = pair(input_ids=ids).logits
    assert [entry["name"] for entry in json.loads((folder / FILE_NAME).read_text())["adapters"]] == list(order)
    model = petune.load(folder, base=tiny_base())
    assert model.active == order
    assert torch.equal(model(input_ids=ids).logits, expected)


def test_an_adapter_takes_the_place_of_a_stack(
    pair: AdaptedModel, tmp_path: Path, tiny_base: Callable[..., Base]
) -> None:
    folder = save_stack(pair, tmp_path / "out")
    save_adapter(pair, folder, name="task")
    assert [member.folder for member in members([folder])] == [folder]
    assert [a.method.name for a in petune.load(folder, base=tiny_base()).adapters.values()] == ["bottleneck"]


@torch.no_grad()
def test_folders_are_stacked_in_the_order_given(
    pair: AdaptedModel, ids: torch.Tensor, tmp_path: Path, tiny_base: Callable[..., Base]
) -> None:
    expected = pair(input_ids=ids).logits
    folders = [save_adapter(pair, tmp_path / f"my-{name}", name=name) for name in pair.active]
    model = petune.load(folders, base=tiny_base())
    assert model.active == ("my-style", "my-task")
    assert torch.equal(model(input_ids=ids).logits, expected)
    model = petune.load(list(reversed(folders)), base=tiny_base())
    assert not torch.allclose(model(input_ids=ids).logits, expected, atol=1e-4)
    assert petune.load([folders[0]], base=tiny_base()).active == ("default",)
    assert petune.load([], base=tiny_base()).active == ()


def test_a_stack_and_folders_mix_and_names_stay_apart(pair: AdaptedModel, tmp_path: Path) -> None:
    stack = save_stack(pair, tmp_path / "both")
    alone = save_adapter(pair, tmp_path / "elsewhere" / "task", name="task")
    found = members([stack, alone, alone])
    assert [member.name for member in found] == ["style", "task", "task-2", "task-3"]
    assert [member.folder for member in found] == [stack / "style", stack / "task", alone, alone]


def test_rows_are_written_as_the_last_was_trained(
    pair: AdaptedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n{"text": "one", "label": "no"}\n', encoding="utf-8")
    pair.adapter("style").data_format = {"layout": "text"}
    pair.adapter("task").data_format = {"template": "{{ no_such_column }}"}
    with caplog.at_level(logging.WARNING, logger="petune"), pytest.raises(petune.PetuneError, match="no_such_column"):
        petune.predict(pair, rows)
    assert "written as 'task' was trained; 'style' was trained on rows written differently" in caplog.text


def test_what_cannot_be_saved(pair: AdaptedModel, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no adapter 'other' is attached"):
        save_stack(pair, tmp_path, ["other"])
    with pytest.raises(ConfigError, match="'task' is named twice"):
        save_stack(pair, tmp_path, ["task", "task"])
    pair.activate()
    with pytest.raises(ConfigError, match="nothing to save; name the adapters"):
        save_stack(pair, tmp_path)
    pair.attach(create_adapter(pair.base, name="../up"))
    with pytest.raises(ConfigError, match=r"'\.\./up' cannot be the name of a folder"):
        save_stack(pair, tmp_path)
    assert not list(tmp_path.iterdir())


def first(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content["adapters"][0].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (first(name="../style"), r"'adapters\.0\.name'.*pattern.*restore it from a copy"),
        (first(name="/etc"), r"'adapters\.0\.name'"),
        (first(name="gone"), r"lost its adapter 'gone': .*gone has no petune\.json"),
        (first(name="task"), "names 'task' twice"),
        (first(digest="sha256:" + "0" * 64), r"style is not the adapter that was saved with this stack \(sha256:"),
        (first(weight=0.5), r"'adapters\.0\.weight'"),
        (lambda content: content.update(format=99), "has format 99, this petune reads up to 1; upgrade petune"),
        (lambda content: content.update(adapters=[]), "'adapters'"),
        (lambda content: content.clear(), "'format'"),
    ],
)
def test_a_damaged_stack_is_refused(
    change: Callable[[dict[str, Any]], Any], message: str, pair: AdaptedModel, tmp_path: Path
) -> None:
    path = save_stack(pair, tmp_path) / FILE_NAME
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(AdapterFormatError, match=message):
        petune.load(tmp_path, base=pair.base)


def test_an_adapter_that_was_exchanged_is_refused(
    pair: AdaptedModel, tmp_path: Path, randomise: Callable[..., Adapter]
) -> None:
    save_stack(pair, tmp_path)
    randomise(pair.adapter("style"), seed=9)
    save_adapter(pair, tmp_path / "style", name="style")  # sound, but another one
    with pytest.raises(AdapterFormatError, match="style is not the adapter that was saved with this stack"):
        members([tmp_path])


def test_adapters_of_different_bases_or_tasks_are_refused(
    pair: AdaptedModel, tmp_path: Path, tiny_base: Callable[..., Base]
) -> None:
    one = save_adapter(pair, tmp_path / "one", name="style")
    gpt2 = tiny_base("gpt2")
    other = save_adapter(AdaptedModel(gpt2, [create_adapter(gpt2)]), tmp_path / "other")
    with pytest.raises(ConfigError, match=r"'one' was made for tiny-llama, 'other' for tiny-gpt2; .*--model"):
        petune.load([one, other])
    classes = tiny_base("bert", task="sequence_classification", labels=("no", "yes"))
    classifier = save_adapter(AdaptedModel(classes, [create_adapter(classes)]), tmp_path / "classifier")
    with pytest.raises(
        ConfigError, match=r"'one' was trained for causal_lm, 'classifier' for sequence_classific.*\(no, yes"
    ):
        petune.load([one, classifier], base=pair.base)
