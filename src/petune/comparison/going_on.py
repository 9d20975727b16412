"""What a comparison that goes on has of its former call: its entries and its rows."""

from collections.abc import Mapping

from petune.checkpoint.manifest import file_digest
from petune.comparison.folder import Folder
from petune.comparison.recipe import CompareOptions, CompareRecipe
from petune.comparison.record import Comparison
from petune.comparison.split import PartFiles, Parts
from petune.errors import OutputFolderError

TRAIN, DEVELOPMENT, TEST = OWN = ("data/train.jsonl", "data/development.jsonl", "data/test.jsonl")
"""Names of the rows in the comparison's folder."""

_ENTRIES = ("models", "methods", "baselines", "seeds")


def with_former_entries(recipe: CompareRecipe, former: Comparison | None) -> CompareRecipe:
    """Return the recipe with the bases, methods and seeds of the former call before its own, so that none is lost.

    The first seed, which the search uses, stays the first. What an entry that is given again searches is as given now.

    Args:
        recipe: that of this call.
        former: the comparison that goes on; None for one that begins.

    Raises:
        ConfigError: an entry of the former call cannot be used any more.
    """
    if former is None:
        return recipe
    own = recipe.options
    keys = {name: former.recipe[name] for name in _ENTRIES if name in former.recipe}
    before = CompareOptions.model_validate({"data": own.data, **keys})
    entries = {entry.label: entry for entry in (*before.methods, *own.methods)}
    joined = {
        "models": list(dict.fromkeys((*before.models, *own.models))),
        "methods": [entry.model_dump(mode="json") for entry in entries.values()],
        "baselines": before.baselines or own.baselines,
        "seeds": list(dict.fromkeys((*before.seeds, *own.seeds))),
    }
    return CompareRecipe.parse({**recipe.keys(), **joined})


def digests(parts: Parts, files: PartFiles) -> dict[str, str]:
    """Return the SHA-256 of the rows, and of each source under a name of its own."""
    own = dict(zip(OWN, map(file_digest, (files.train, files.development, files.test)), strict=True))
    return {**own, **{f"source {name}": digest for name, digest in parts.sources.items()}}


def refuse_other_rows(former: Comparison | None, data: Mapping[str, str], folder: Folder) -> None:
    """Check that the rows are those of the former call; sources may change as long as the rows do not.

    Raises:
        OutputFolderError: they are others.
    """
    if former is None:
        return
    other = [name for name in OWN if former.data.get(name) != data[name]]
    if other:
        raise OutputFolderError(
            f"{folder.path} holds a comparison on other rows ({', '.join(other)} would change): bring the former files"
            " and splits back, or give another --output-dir"
        )
