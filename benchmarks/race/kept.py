"""What a file of results holds already, so that it is not timed again."""

import json
from pathlib import Path
from typing import Any


def kept(path: Path, part: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the ``part`` of an earlier run's results; nothing where there is no file.

    Args:
        path: the file.
        part: the key under which it holds what was run, by name.
        facts: what is the same for all of that: sizes, machine, releases.

    Raises:
        SystemExit: the file is of a run with other facts.
    """
    if not path.is_file():
        return {}
    earlier: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    other = [key for key, value in facts.items() if earlier.get(key) != json.loads(json.dumps(value))]
    if other:
        raise SystemExit(f"{path} holds a run with other {', '.join(other)}; choose another --output, or remove it")
    return dict(earlier[part])
