"""How PEFT's configs name linears and embeddings: by the ends of their paths."""

from collections.abc import Iterable, Sequence

from transformers.conversion_mapping import get_checkpoint_conversion_mapping

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


def names_of_merged_experts(structure: Structure) -> frozenset[str]:
    """Return what linears of single experts were called that transformers has merged into one tensor since.

    PEFT takes these names for that tensor, whatever else of the base bears them: a shared expert, a block without any.
    """
    conversions = get_checkpoint_conversion_mapping(structure.model_type) or ()
    sources = [source for conversion in conversions for source in conversion.source_patterns]
    return frozenset(leaf(source.removesuffix(".weight")) for source in sources if ".experts.*." in source)


def leaf(path: str) -> str:
    """Return the last part of a path."""
    return path.rpartition(".")[2]
