"""How PEFT's configs name linears and embeddings: by the ends of their paths."""

from collections.abc import Iterable, Sequence

from petune.backbone.structure import Structure
from petune.errors import TargetError


def that_match(names: Iterable[object], structure: Structure) -> tuple[object, ...]:
    """Return those of ``names`` that are a module's path, or its end; PEFT lets names in a list match nothing."""
    paths = [*(linear.path for linear in structure.linears), *(table.path for table in structure.embeddings)]
    return tuple(name for name in names if any(f".{path}".endswith(f".{name}") for path in paths))


def shortest_names(paths: Sequence[str], structure: Structure) -> list[str]:
    """Return the leaf names that select exactly ``paths``, or the whole paths where leaf names would select more."""
    leaves = sorted({leaf(path) for path in paths})
    try:
        selected = {module.path for module in structure.select_with_embeddings(leaves)}
    except TargetError:
        return sorted(paths)
    return leaves if selected == set(paths) else sorted(paths)


def leaf(path: str) -> str:
    """Return the last part of a path."""
    return path.rpartition(".")[2]
