"""No method is named outside its own file, the file-format tables, and the defaults of options."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from petune.methods import REGISTRY

PACKAGE = Path(__file__).parents[2] / "src" / "petune"
# How methods are spelled in other people's files is told by tables, a line or a layout for each method.
TABLES = {
    "checkpoint/adapterhub.py",
    "checkpoint/adapterhub_bottleneck.py",
    "checkpoint/adapterhub_lora.py",
    "checkpoint/adapterhub_prefix.py",
    "checkpoint/peft.py",
    "checkpoint/peft_adaption_prompt.py",
    "checkpoint/peft_ia3.py",
    "checkpoint/peft_lora.py",
    "checkpoint/peft_virtual_tokens.py",
    "compat/enumerations.py",
    "compat/method_configs.py",
    "compat/peft.py",
}
SOURCES = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.relative_to(PACKAGE).parts[0] != "methods" and path.relative_to(PACKAGE).as_posix() not in TABLES
]
# These are words of English as well: only the bare name in quotes, or a class of the method, gives them away.
ORDINARY_WORDS = {"full"}


@functools.cache
def classes_of_methods() -> frozenset[str]:
    """Return the names of all classes that the methods' files define."""
    files = {target.partition(":")[0].rpartition(".")[2] for target in REGISTRY.values()}
    trees = [ast.parse((PACKAGE / "methods" / f"{name}.py").read_text(encoding="utf-8")) for name in files]
    return frozenset(node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef))


def names_a_method(text: str) -> bool:
    """Say whether an identifier, or text in quotes, gives a method away."""
    distinctive = "|".join(re.escape(name) for name in REGISTRY if name not in ORDINARY_WORDS)
    word = rf"(?<![a-z])({distinctive})(?![a-z])"
    return text in classes_of_methods() or re.search(word, text, re.IGNORECASE) is not None


def named_methods(tree: ast.Module) -> list[str]:
    """Return each place that names a method, as ``line: text``; docstrings and defaults do not count."""
    exempt = {id(node) for node in (*_docstrings(tree), *_defaults(tree))}
    found = []
    for node in ast.walk(tree):
        texts = [name for name in _identifiers(node) if names_a_method(name)]
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in exempt:
            texts += [repr(node.value)] if node.value in REGISTRY or names_a_method(node.value) else []
        found += [f"{getattr(node, 'lineno', 0)}: {text}" for text in texts]
    return found


def _docstrings(tree: ast.Module) -> Iterator[ast.expr]:
    """Yield every string that stands as a statement: docstrings of modules, classes, functions and fields."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.value


def _defaults(tree: ast.Module) -> Iterator[ast.expr]:
    """Yield the defaults of fields and arguments called ``method``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "method":
            if node.value is not None:
                yield node.value
        elif isinstance(node, ast.arguments):
            positional = [*node.posonlyargs, *node.args]
            pairs = [*zip(reversed(positional), reversed(node.defaults), strict=False)]
            pairs += [(a, d) for a, d in zip(node.kwonlyargs, node.kw_defaults, strict=True) if d is not None]
            yield from (default for argument, default in pairs if argument.arg == "method")


def _identifiers(node: ast.AST) -> Iterator[str]:
    for field in ("id", "attr", "name", "arg"):
        value = getattr(node, field, None)
        if isinstance(value, str):
            yield value


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_method_is_named(path: Path) -> None:
    assert named_methods(ast.parse(path.read_text(encoding="utf-8"))) == []


def test_the_tables_exist() -> None:
    assert all((PACKAGE / name).is_file() for name in TABLES)
    assert len(SOURCES) > 50


@pytest.mark.parametrize(
    "snippet",
    [
        'if method == "lora": pass',
        'if method == "full": pass',
        "from petune.methods.lora import LoRAConfig",
        "isinstance(slot, FullConfig)",
        "slot.lora_A",
        'print("trained with LoRA")',
        'settings = {"method": "lora"}',
        'def train(other="lora"): pass',
    ],
)
def test_a_named_method_is_found(snippet: str) -> None:
    assert named_methods(ast.parse(snippet))


@pytest.mark.parametrize(
    "snippet",
    [
        '"""As LoRA does."""',
        'class Options:\n    method: str = "lora"\n    """Such as lora."""',
        'def create(base, method="lora", *, name="default"): pass',
        'raise ValueError("the disk is full")',
        "full = exploration = True",
    ],
)
def test_an_innocent_text_passes(snippet: str) -> None:
    assert named_methods(ast.parse(snippet)) == []
