"""Pages of the documentation: links that lead somewhere, the same headings for every method, a current changelog."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import petune
from petune import methods
from petune.comparison.recipe import CompareRecipe
from petune.training.recipe import Recipe

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
HEADINGS = [
    "Idea",
    "Equation",
    "Paper",
    "Where it plugs in",
    "Settings",
    "Files",
    "What to expect",
    "How petune differs",
]


def headings(text: str, level: int = 2) -> list[str]:
    """Return the headings of one level, those in code blocks left out."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(rf"^{'#' * level} (.+)$", prose, flags=re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Return the anchors that a page's headings make."""
    titles = [title for level in range(1, 5) for title in headings(text, level)]
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


def broken_links(path: Path, text: str) -> Iterator[str]:
    """Yield the relative links of a page whose file or heading does not exist."""
    for match in LINK.finditer(text):
        target = match["target"]
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists() or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            yield target


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    assert list(broken_links(path, path.read_text(encoding="utf-8"))) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n## A heading: two\n")
    text = "[a](page.md) [b](gone.md) [c](page.md#a-heading-two) [d](page.md#other) [e](https://example.org/x)"
    assert list(broken_links(tmp_path / "index.md", text)) == ["gone.md", "page.md#other"]


def test_all_pages_were_found() -> None:
    names = {path.name for path in PAGES}
    assert {"README.md", "README.zh-CN.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"} <= names
    assert {"architecture.md", "adding_a_method.md", "data.md", "training.md", "files.md", "cli.md"} <= names


def test_every_method_has_a_page_with_the_same_headings() -> None:
    pages = {path.stem: headings(path.read_text(encoding="utf-8")) for path in (ROOT / "docs" / "methods").glob("*.md")}
    assert pages == dict.fromkeys(methods.names(), HEADINGS)


def test_every_paper_stands_on_its_method_s_page() -> None:
    papers = {name: paper for name in methods.names() if (paper := methods.get(name).paper) is not None}
    assert papers
    for name, paper in papers.items():
        page = " ".join((ROOT / "docs" / "methods" / f"{name}.md").read_text(encoding="utf-8").split())
        assert paper.url in page, name
        assert paper.title in page, name


def test_every_method_has_a_recipe() -> None:
    paths = [path for path in (ROOT / "recipes").glob("*.yaml") if not path.stem.startswith("compare_")]
    recipes = {path.stem: Recipe.read(path) for path in paths}
    assert {name: recipe.run.method for name, recipe in recipes.items()} == {n: n for n in methods.names()}


def test_the_recipes_of_comparisons_are_sound() -> None:
    recipes = [CompareRecipe.read(path) for path in (ROOT / "recipes").glob("compare_*.yaml")]
    assert [len(recipe.entries()) for recipe in recipes] == [5]


def test_the_page_of_comparisons_is_true(
    tiny_model: Callable[..., PreTrainedModel],
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (ROOT / "docs" / "compare.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    assert len(block.splitlines()) <= 11
    (recipe,) = re.findall(r"^```yaml\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    assert [entry.method for entry in CompareRecipe.parse(yaml.safe_load(recipe)).entries()] == [
        "lora", "lora", "prefix_tuning", "full", "hard_prompts",
    ]  # fmt: skip
    tiny_tokenizer.model_max_length = 512
    tiny_model("llama", num_hidden_layers=1, max_position_embeddings=512).save_pretrained(tmp_path / "tiny")
    tiny_tokenizer.save_pretrained(tmp_path / "tiny")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    short = '"models": ["./tiny"], "budget": 1, "budget_unit": "steps", "rate_factors": [1], "baselines": False'
    exec(compile(block.replace('"models": ["demo"]', short), "compare.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "('lora', {'learning_rate': 0.0004}" in printed
    assert "('prefix_tuning', {'num_virtual_tokens': " in printed


def test_the_changelog_has_the_current_version() -> None:
    versions = headings((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert versions[0].split("]")[0] == f"[{petune.__version__}"


def test_the_licence_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
