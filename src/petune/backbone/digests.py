"""SHA-256 of weight files; each file is read once and its digest remembered in petune's cache."""

import contextlib
import hashlib
import json
import re
import secrets
from collections.abc import Iterable
from pathlib import Path

from petune.backbone.cache import cache_folder
from petune.errors import ArtifactError

_HEX_DIGEST = re.compile(r"[0-9a-f]{64}")


def read_digest(path: Path) -> str:
    """The SHA-256 of a file as it is now, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, in hex.

    A digest is remembered under the file's real path, size and times of change. The hub's own cache names a
    large file after its digest, which is then taken from the name.
    """
    real = path.resolve()
    if real.parent.name == "blobs" and _HEX_DIGEST.fullmatch(real.name):
        return real.name
    facts = real.stat()
    key = f"{real}|{facts.st_size}|{facts.st_mtime_ns}|{facts.st_ctime_ns}"
    remembered = cache_folder() / "digests" / hashlib.sha256(key.encode()).hexdigest()
    with contextlib.suppress(OSError):
        digest = remembered.read_text(encoding="ascii", errors="replace")
        if _HEX_DIGEST.fullmatch(digest):
            return digest
    digest = read_digest(real)
    with contextlib.suppress(OSError):  # a cache that cannot be written only costs reading the file again
        remembered.parent.mkdir(parents=True, exist_ok=True)
        partial = remembered.with_name(f"{remembered.name}.{secrets.token_hex(4)}")
        partial.write_text(digest, encoding="ascii")
        partial.replace(remembered)
    return digest


def weights_digest(files: Iterable[Path]) -> str:
    """One digest for a model's weight files: ``sha256:`` and a hash over their digests in name order.

    A model in a single file has that file's own digest.
    """
    digests = [file_digest(path) for path in sorted(files, key=lambda path: path.name)]
    if len(digests) == 1:
        return f"sha256:{digests[0]}"
    return f"sha256:{hashlib.sha256(''.join(digests).encode()).hexdigest()}"


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files that a model folder is loaded from; empty where it has none.

    Raises:
        ArtifactError: the index of a sharded model is damaged, or names a missing file or one outside the
            folder.
    """
    single = folder / "model.safetensors"
    if single.is_file():
        return (single,)
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return ()
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{index} is not an index of safetensors files ({error}); fetch the model again") from error
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise ArtifactError(f"{index} names {name!r}, which is not a file of {folder}; fetch the model again")
    return tuple(folder / name for name in names)
