"""Imports point down only."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "petune"
MODULES = {
    ".".join(("petune", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
# Bottom to top: a module may import from its own layer and from those before it.
LAYERS = (
    "errors",
    "backbone",
    "kernels",
    "sites",
    "methods",
    "adapter",
    "catalogue",
    "merging",
    "stacking",
    "adapted_model",
    "checkpoint",
    "data",
    "evaluation",
    "tasks",
    "training",
    "api",
    "comparison",
    "compat",
    "cli",
    "__main__",
)
SHARED_BY_METHODS = {
    "petune.methods",
    "petune.methods.config",
    "petune.methods.dora",
    "petune.methods.keys_values",
    "petune.methods.low_rank_slots",
    "petune.methods.method",
    "petune.methods.pissa",
    "petune.methods.soft_prompt",
    "petune.methods.starts",
}


def imported(tree: ast.Module) -> Iterator[str]:
    """Yield the petune modules that a module imports, inside functions and for type checking too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "petune")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "petune":
            members = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else str(node.module) for name in members)


def wrong_imports(importer: str, tree: ast.Module) -> list[str]:
    """Return the imports of ``importer`` that point up, or from one method to another."""
    found = []
    own = LAYERS.index(importer.split(".")[1])
    for name in imported(tree):
        if name == "petune":
            continue  # the package itself: its version
        layer = name.split(".")[1]
        between_methods = (
            importer.startswith("petune.methods.")
            and name.startswith("petune.methods.")
            and name != importer
            and name not in SHARED_BY_METHODS
        )
        if LAYERS.index(layer) > own:
            found.append(f"{importer} imports {name}, a higher layer")
        elif between_methods:
            found.append(f"{importer} imports {name}, another method")
    return found


def test_every_module_belongs_to_a_layer() -> None:
    layers = {name.split(".")[1] for name in MODULES if name != "petune"}
    assert layers == set(LAYERS)
    assert len(MODULES) > 60


def test_the_documented_picture_is_this_one() -> None:
    page = (PACKAGE.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert f"  {' --> '.join(reversed(LAYERS))}\n" in page
    tree = page.partition("src/petune/\n")[2].partition("```")[0]
    drawn = [line.split()[0].removesuffix("/").removesuffix(".py") for line in tree.splitlines()]
    assert sorted(drawn) == sorted(LAYERS)


@pytest.mark.parametrize("name", [name for name in MODULES if name != "petune"])
def test_imports_point_down(name: str) -> None:
    assert wrong_imports(name, ast.parse(MODULES[name].read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("importer", "line"),
    [
        ("petune.sites.output", "from petune.methods.lora import LoRASlot"),
        ("petune.sites.output", "from petune import methods"),
        ("petune.kernels.low_rank", "import petune.sites.routing"),
        ("petune.data.loading", "from petune.evaluation import metrics"),
        ("petune.training.run", "def late():\n    from petune.cli.main import main"),
        ("petune.methods.lora", "from petune.methods.full import FullConfig"),
    ],
)
def test_a_wrong_import_is_found(importer: str, line: str) -> None:
    assert len(wrong_imports(importer, ast.parse(line))) == 1


@pytest.mark.parametrize(
    ("importer", "line"),
    [
        ("petune.methods.lora", "from petune.methods.config import MethodConfig"),
        ("petune.methods.lora", "import torch"),
        ("petune.evaluation.evaluate", "from petune.data.examples import Example"),
        ("petune.cli.main", "from petune import __version__"),
    ],
)
def test_a_right_import_passes(importer: str, line: str) -> None:
    assert wrong_imports(importer, ast.parse(line)) == []
