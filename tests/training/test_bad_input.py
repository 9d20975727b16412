"""Settings, rows and adapters that do not go together: one line that says so, before training begins."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

import petune
from petune.adapted_model import AdaptedModel
from petune.adapter import create_adapter
from petune.backbone.base import Base, load_base
from petune.backbone.loading import quiet
from petune.checkpoint.folder import load_adapter, save_adapter
from petune.errors import BaseMismatchError, ConfigError, PetuneError, TargetError
from petune.training.run import train

ROWS = [{"text": f"a film {i}", "label": ("bad", "good")[i % 2]} for i in range(6)]
NEW = [{"text": "so so", "label": "goodd"}]


@pytest.fixture
def folder(tmp_path: Path, tiny_base: Callable[..., Base]) -> Callable[[str], Path]:
    """Save a tiny base; ``folder("bert")`` returns where."""

    def save(architecture: str) -> Path:
        base = tiny_base(architecture)
        with quiet():
            base.model.save_pretrained(tmp_path / architecture)
            base.tokenizer.save_pretrained(tmp_path / architecture)
        return tmp_path / architecture

    return save


@pytest.fixture
def data(tmp_path: Path, write_rows: Callable[..., Path]) -> Callable[..., str]:
    """Write rows; ``data(rows, "name")`` returns the file."""

    def write(rows: Iterable[dict[str, Any]], name: str = "rows") -> str:
        return str(write_rows(tmp_path / f"{name}.jsonl", rows))

    return write


STARTS: list[tuple[str, dict[str, Any]]] = [
    ("prompt_tuning", {"prompt_tuning_init": "text", "prompt_tuning_init_text": "abcdefghij"}),
    ("p_tuning", {"prompt_init": "text", "prompt_init_text": "abcdefghij"}),
    ("prefix_tuning", {"prefix_init": "text", "prefix_init_text": "abcdefghij"}),
    ("p_tuning_v2", {"prefix_init": "text", "prefix_init_text": "abcdefghij"}),
]


@pytest.mark.parametrize(("method", "start"), STARTS)
def test_a_text_longer_than_what_it_starts(
    method: str, start: dict[str, Any], data: Callable[..., str], tiny_base: Callable[..., Base], tmp_path: Path
) -> None:
    recipe = {"method": method, "num_virtual_tokens": 4, **start, "data": data(ROWS), "output_dir": str(tmp_path / "x")}
    with pytest.raises(ConfigError, match=r"_text has 10 tokens, num_virtual_tokens is 4: a start may not be longer"):
        train(recipe, base=tiny_base())


UNUSABLE: dict[str, tuple[str, dict[str, Any], str]] = {
    "template without a slot": ("llama", {"template": "Label:"}, "--template has no slot for a column, so it would be"),
    "single braces": ("llama", {"template": "{text}\nLabel:"}, "written in double braces, such as {{ text }}"),
    "unknown slot": (
        "llama",
        {"template": "{{ txt }}:"},
        "has the slot 'txt', which is no column. Did you mean 'text'",
    ),
    "nothing but the answer": (
        "bert",
        {"task": "masked_lm", "template": "It was {{ mask }}."},
        "has no slot for a col",
    ),
    "P-tuning without a slot": (
        "llama",
        {"method": "p_tuning", "prompt_template": "{p*3} the answer:"},
        "needs the slot {text} once, for the row's own text",
    ),
    "P-tuning with an unknown slot": (
        "llama",
        {"method": "p_tuning", "prompt_template": "{p*3} {txt}"},
        "has the unknown slot {txt}. Did you mean 'text'?",
    ),
    "gap without a place": ("bert", {"task": "masked_lm"}, "nothing says where its answer stands"),
    "infix on an encoder": (
        "bert",
        {"method": "prefix_tuning", "placement": "infix"},
        "placement is infix, which needs a decoder",
    ),
    "infix before a head": (
        "llama",
        {"method": "prefix_tuning", "placement": "infix", "task": "sequence_classification"},
        "an infix stands before the answer that a decoder writes",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_templates_and_places_are_checked_before_the_weights_load(
    case: str, folder: Callable[[str], Path], data: Callable[..., str], tmp_path: Path
) -> None:
    architecture, keys, message = UNUSABLE[case]
    model = folder(architecture)
    (model / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(PetuneError) as error:
        train({"model": str(model), "data": data(ROWS), "output_dir": str(tmp_path / "out"), **keys})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_instruction_that_is_the_same_for_every_row_may_be_followed_by_what_is_not(
    data: Callable[..., str], tiny_base: Callable[..., Base], tmp_path: Path
) -> None:
    keys = {"template": "Write a review:", "target": " {{ title }}", "max_steps": 1}
    rows = data([{"title": "one"}, {"title": "two"}])
    assert train({**keys, "data": rows, "output_dir": str(tmp_path / "out")}, base=tiny_base()).steps == 1


def test_a_head_without_labels(folder: Callable[[str], Path]) -> None:
    for task in ("sequence_classification", "token_classification"):
        with pytest.raises(
            ConfigError, match=rf"comes without a head for {task}, so its classes have to be named: load"
        ):
            load_base(folder("bert"), task=task)
    with pytest.raises(ConfigError, match="the task masked_lm has no classes, and 2 labels were given"):
        load_base(folder("bert"), task="masked_lm", labels=("a", "b"))


@pytest.mark.parametrize(
    ("architecture", "keys"),
    [("llama", {}), ("bert", {}), ("bert", {"task": "masked_lm", "template": "{{ text }} {{ mask }}"})],
)
def test_a_label_that_no_training_row_has(
    architecture: str, keys: dict[str, Any], folder: Callable[[str], Path], data: Callable[..., str], tmp_path: Path
) -> None:
    if "mask" in str(keys):  # words of equally many tokens
        rows = [{**row, "label": row["label"][:3]} for row in ROWS], [{"text": "so", "label": "gop"}]
    else:
        rows = ROWS, NEW
    recipe = {"model": str(folder(architecture)), "data": data(rows[0]), "eval_data": data(rows[1], "new"), **keys}
    with pytest.raises(
        PetuneError, match=r"new.jsonl: 1 of 1 .*rows have a label .* the first is 'go\w+' at .*:1.*The l"
    ):
        train({**recipe, "output_dir": str(tmp_path / "out")})
    assert not (tmp_path / "out" / "checkpoint-1").exists()


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "layers": ({"num_hidden_layers": 2}, "layers: 3 expected, 2 found"),
    "hidden size": ({"hidden_size": 64}, "hidden size: 32 expected, 64 found"),
    "vocabulary": ({"vocab_size": 300}, "vocabulary size: 288 expected, 300 found"),
}


@pytest.mark.parametrize(
    "method", ["lora", "prefix_tuning", "prompt_tuning", "p_tuning", "bottleneck", "llama_adapter"]
)
@pytest.mark.parametrize("case", OTHERS)
def test_an_adapter_of_another_base(case: str, method: str, tiny_base: Callable[..., Base], tmp_path: Path) -> None:
    changes, message = OTHERS[case]
    base = tiny_base()
    saved = save_adapter(AdaptedModel(base, [create_adapter(base, method)]), tmp_path)
    with pytest.raises(BaseMismatchError) as error:
        load_adapter(saved, tiny_base(**changes))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_adapter_of_other_weights(
    folder: Callable[[str], Path], data: Callable[..., str], tiny_base: Callable[..., Base], tmp_path: Path
) -> None:
    model = folder("llama")
    recipe = {"model": str(model), "data": data(ROWS), "max_steps": 1, "output_dir": str(tmp_path / "out")}
    train(recipe)
    tiny_base(seed=9).model.save_pretrained(model)
    with pytest.raises(BaseMismatchError, match=r"was made for the base .*: weights differ: expected .*, got "):
        petune.load(tmp_path / "out")


def test_what_the_base_never_calls_cannot_be_learned(
    data: Callable[..., str], tiny_base: Callable[..., Base], tmp_path: Path
) -> None:
    recipe = {"method": "bitfit", "data": data(ROWS), "output_dir": str(tmp_path / "x"), "max_steps": 1}
    with pytest.raises(TargetError, match=r"nothing that adapter \w+ learns has a part in what the base computes"):
        train(recipe, base=tiny_base("mamba"))
