"""What a comparison that goes on has of its former call: its entries, its rows and the files it names."""

import json
from collections.abc import Mapping
from pathlib import Path

from petune.backbone.digests import weights_digest
from petune.checkpoint.manifest import file_digest
from petune.comparison.folder import Folder
from petune.comparison.recipe import CompareRecipe
from petune.comparison.record import Comparison
from petune.comparison.split import PartFiles, Parts
from petune.errors import OutputFolderError
from petune.evaluation.metrics import place_of_own

TRAIN, DEVELOPMENT, TEST = OWN = ("data/train.jsonl", "data/development.jsonl", "data/test.jsonl")
"""Names of the rows in the comparison's folder."""

_ENTRIES = ("models", "methods", "baselines", "seeds")
_FREE = frozenset(
    {
        *_ENTRIES,
        "data",
        "eval_data",
        "validation_split",
        "test_data",
        "test_split",
        "allow_overlap",
        "rate_factors",
        "reduction",
        "search_settings",
        "keep_adapters",
        "share_passes",
        "engine",
        "cpus_per_trial",
        "gpus_per_trial",
        "memory_per_trial",
        "ray_address",
        "retries",
        "output_dir",
    }
)
"""Keys that may change: of entries and their search, of rows, which are looked at, and of where trials run."""


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
    parsed = CompareRecipe.parse({"data": own.data, **keys})
    before = parsed.options
    # Baselines by name: one that is given with other settings now is another entry.
    entries = {entry.label: entry for entry in (*parsed.entries(), *own.methods)}
    joined = {
        "models": list(dict.fromkeys((*before.models, *own.models))),
        "methods": [entry.model_dump(mode="json") for entry in entries.values()],
        "baselines": before.baselines or own.baselines,
        "seeds": list(dict.fromkeys((*before.seeds, *own.seeds))),
    }
    return CompareRecipe.parse({**recipe.keys(), **joined})


def refuse_other_keys(recipe: CompareRecipe, former: Comparison | None, folder: Folder) -> None:
    """Check that trials which have ended are those that the recipe asks for, apart from what may be added.

    Raises:
        OutputFolderError: a key has another value, so that every trial would be another.
    """
    if former is None or not folder.has_trials:
        return
    asked = json.loads(json.dumps(recipe.keys()))
    changed = [
        f"{key} is {asked[key]!r}, was {value!r}"
        for key, value in former.recipe.items()
        if key in asked and key not in _FREE and asked[key] != value
    ]
    if changed:
        raise OutputFolderError(
            f"{folder.path} holds trials of another comparison ({'; '.join(changed)}): with --resume bases, methods and"
            " seeds may be added and searches changed; give another --output-dir, or begin anew with --overwrite"
        )


def digests(recipe: CompareRecipe, parts: Parts, files: PartFiles) -> dict[str, str]:
    """Return the SHA-256 of all that results rest on, by name: `source NAME`, `base PATH` and `file PATH` but for rows.

    Args:
        recipe: that of the comparison; of bases, those on this disk count.
        parts: its rows.
        files: where these lie.
    """
    own = dict(zip(OWN, map(file_digest, (files.train, files.development, files.test)), strict=True))
    sources = {f"source {name}": digest for name, digest in parts.sources.items()}
    bases = {f"base {name}": weights_digest(found) for name in recipe.options.models if (found := _of_base(name))}
    named = {f"file {path}": file_digest(path) for path in _named(recipe)}
    return {**own, **sources, **bases, **named}


def _of_base(name: str) -> list[Path]:
    """Return the files that a local base is loaded from; none where it is not of this disk."""
    path = Path(name).expanduser()
    if name == "demo":
        return []
    if path.is_dir():
        return [file for file in path.iterdir() if file.suffix in (".json", ".safetensors")]
    return [path] if path.is_file() else []


def _named(recipe: CompareRecipe) -> list[Path]:
    """Return the files that metrics and settings name."""
    options = recipe.options
    places = filter(None, map(place_of_own, (options.metric or "", *options.metrics)))
    settings = [own for entry in recipe.entries() for own in entry.candidates(options.rate_factors)]
    given = [value for own in settings for value in own.values() if isinstance(value, str)]
    paths = dict.fromkeys([*(path for path, _ in places), *map(Path, given)])
    return [path for path in paths if _is_file(path)]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a text that is too long for a name
        return False


def refuse_other_files(former: Comparison | None, data: Mapping[str, str], folder: Folder) -> None:
    """Check that rows, bases and named files are those of the former call; a source may change where the rows do not.

    Before the first trial has ended nothing rests on bases and files yet.

    Raises:
        OutputFolderError: they are others.
    """
    if former is None:
        return
    rows = [name for name in OWN if former.data.get(name) != data[name]]
    if rows:
        raise OutputFolderError(
            f"{folder.path} holds a comparison on other rows ({', '.join(rows)} would change): bring the former files"
            " and splits back, or give another --output-dir"
        )
    rest = [
        name for name in data if name.startswith(("base ", "file ")) and former.data.get(name, data[name]) != data[name]
    ]
    if rest and folder.has_trials:
        raise OutputFolderError(
            f"{folder.path} holds trials from before what they rest on changed ({', '.join(rest)}): bring the former"
            " contents back, begin anew with --overwrite, or give another --output-dir"
        )
