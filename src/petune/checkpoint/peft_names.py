"""How PEFT's configs name linears and embeddings: by the ends of their paths."""

import logging
from collections.abc import Iterable, Sequence

from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from petune.backbone.structure import Structure
from petune.backbone.targets import matcher
from petune.checkpoint.peft_layout import CONFIG_FILE
from petune.errors import AdapterFormatError, TargetError

logger = logging.getLogger("petune")


def that_match(names: Iterable[object], structure: Structure) -> tuple[object, ...]:
    """Return those of ``names`` that are a module's path, or its end; PEFT lets names in a list match nothing."""
    paths = _paths(structure)
    return tuple(name for name in names if any(f".{path}".endswith(f".{name}") for path in paths))


def excluded(given: object, structure: Structure) -> object:
    """Return those of PEFT's ``exclude_modules`` that leave a module of this base out: the others may match nothing.

    A text is a pattern over whole paths there, also where it is a plain name.

    Raises:
        AdapterFormatError: it is a pattern that cannot be used.
    """
    if isinstance(given, list):
        return that_match(given, structure)
    if not isinstance(given, str):
        return given
    try:
        fits = matcher(given, what="exclude_modules")
        if any(map(fits, _paths(structure))):
            return given
    except TargetError as error:
        raise AdapterFormatError(f"{CONFIG_FILE}: {error}") from error
    logger.warning("exclude_modules=%r leaves out no module of this base, as a pattern over whole paths", given)
    return ()


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


def _paths(structure: Structure) -> list[str]:
    return [*(linear.path for linear in structure.linears), *(table.path for table in structure.embeddings)]
