"""What ``import petune`` offers: sorted, complete, and every name of it real."""

import ast
from pathlib import Path

import petune

SOURCE = Path(__file__).parents[2] / "src" / "petune" / "__init__.py"
NAMES = [
    "AdaptedModel",
    "Adapter",
    "Base",
    "Outcome",
    "PetuneError",
    "Recipe",
    "TrainingResult",
    "compare",
    "create_adapter",
    "evaluate",
    "generate",
    "inspect_data",
    "list_methods",
    "load",
    "load_base",
    "merge",
    "predict",
    "save_adapter",
    "save_stack",
    "suggest",
    "train",
    "train_many",
]


def imported_names(tree: ast.Module) -> set[str]:
    """Return the names that a module imports from petune's own modules."""
    return {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("petune.")
        for alias in node.names
    }


def test_the_public_names_are_these() -> None:
    assert [name for name in petune.__all__ if name != "__version__"] == NAMES


def test_all_is_sorted_and_complete() -> None:
    assert list(petune.__all__) == sorted(petune.__all__)
    assert imported_names(ast.parse(SOURCE.read_text(encoding="utf-8"))) == set(NAMES)
    assert set(petune.__all__) <= set(dir(petune))


def test_every_name_is_real_and_documented() -> None:
    for name in NAMES:
        assert getattr(petune, name).__doc__, name


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(petune, "no_such_name")
