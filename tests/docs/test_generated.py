"""The generated parts of docs/ are what the code says now."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from petune import methods
from petune.comparison.method_entry import MethodEntry
from petune.comparison.recipe import SHARED_KEYS, CompareOptions
from petune.training.recipe import SEVERAL, RunOptions

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def regenerate() -> ModuleType:
    """The script scripts/regenerate_docs.py as a module."""
    spec = importlib.util.spec_from_file_location("regenerate_docs", ROOT / "scripts" / "regenerate_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_up_to_date(regenerate: ModuleType) -> None:
    pages = regenerate.pages()
    stale = [path.name for path, text in pages.items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "run .venv/bin/python scripts/regenerate_docs.py"
    assert len(pages) == 9 + len(methods.names())


def test_every_section_stands_somewhere(regenerate: ModuleType) -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md"))
    assert [name for name in regenerate.all_sections() if f"<!-- generated: {name} -->" not in pages] == []


def test_a_stale_page_is_found_and_rewritten(
    regenerate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    page = docs / "page.md"
    page.write_text("Before.\n<!-- generated: layouts -->\nold\n<!-- end -->\nAfter.\n")
    monkeypatch.setattr(regenerate, "DOCS", docs)
    assert regenerate.main(["--check"]) == 1
    assert "old" in page.read_text()
    assert regenerate.main([]) == 0
    assert regenerate.main(["--check"]) == 0
    text = page.read_text()
    assert text.startswith("Before.\n")
    assert text.endswith("After.\n")
    assert "old" not in text
    assert "prompt-completion" in text


def test_the_schema_knows_every_key_of_the_recipes() -> None:
    schema = json.loads((ROOT / "docs" / "recipe.schema.json").read_text(encoding="utf-8"))
    assert set(schema["properties"]) == {*RunOptions.model_fields, SEVERAL}
    own = {
        choice["if"]["properties"]["method"]["const"]: set(choice["then"]["properties"]) for choice in schema["allOf"]
    }
    assert sorted(own) == list(methods.names())
    for path in (ROOT / "recipes").glob("*.yaml"):
        keys = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not path.stem.startswith("compare_"):
            assert set(keys) <= set(schema["properties"]) | own[keys["method"]], path.name


def test_the_schema_of_comparisons_knows_every_key() -> None:
    schema = json.loads((ROOT / "docs" / "compare.schema.json").read_text(encoding="utf-8"))
    assert set(schema["properties"]) == {*CompareOptions.model_fields, *SHARED_KEYS}
    entry = schema["$defs"]["MethodEntry"]
    assert set(entry["properties"]) == set(MethodEntry.model_fields)
    assert entry["properties"]["method"]["enum"] == list(methods.names())
    assert entry["required"] == ["method"]
    for path in (ROOT / "recipes").glob("compare_*.yaml"):
        assert set(yaml.safe_load(path.read_text(encoding="utf-8"))) <= set(schema["properties"]), path.name
