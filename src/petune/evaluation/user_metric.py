"""A metric from the user's own Python file.

The file is code that runs with the user's rights, so its path comes from the user alone: nothing in an
adapter or in data can name one.
"""

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from petune.errors import ConfigError, nearest

Compare = Callable[[Sequence[str], Sequence[str]], dict[str, float]]


def load_user_metric(path: Path, function: str, name: str) -> Compare:
    """Return a checked form of ``function`` in the Python file at ``path``.

    The function is called with ``predictions`` and ``references``, two lists of one length, and returns a number or a
    dict of numbers. They hold strings; of tagged words tuples, a tag for each; and of questions all right answers.

    Args:
        path: the user's file.
        function: name of the function in it.
        name: what its value is called where it returns one number.

    Raises:
        ConfigError: the file is missing, fails, or has no such function. The returned function raises it
            where the user's fails or returns something else than numbers.
    """
    module = _load(path)
    called = getattr(module, function, None)
    if not callable(called):
        defined = [n for n, _ in inspect.getmembers(module, inspect.isfunction) if not n.startswith("_")]
        raise ConfigError(
            f"{path} has no function '{function}'; it defines {', '.join(defined) or 'none'}. Name one as "
            f"{path}:function.{nearest(function, defined)}"
        )

    def compare(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        try:
            value = called(predictions=list(predictions), references=list(references))
        except Exception as error:
            raise _failure(path, error) from error
        values = value if isinstance(value, Mapping) else {name: value}
        return {_key(path, function, key): _number(path, function, number) for key, number in values.items()}

    return compare


def _load(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"no file {path} for the metric; give the path of a Python file, as path/to/file.py:function")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _failure(path, error) from error
    return _executed(path, content)


@lru_cache
def _executed(path: Path, content: bytes) -> ModuleType:
    """Return the module that the file makes; it is run once for what it holds, however often it is asked for."""
    module_name = f"petune_user_metric_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None, "a path that ends in .py has a loader"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses of the file look their module up by name while it runs.
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise _failure(path, error) from error
    return module


def _failure(path: Path, error: Exception) -> ConfigError:
    """Return the error with the last line of the user's own file on its way."""
    if isinstance(error, SyntaxError):
        place = f"{error.filename or path}:{error.lineno}"
    else:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
        place = f"{path}:{own[-1]}" if own else str(path)
    reason = " ".join(str(error).split())
    return ConfigError(
        f"{place}: {type(error).__name__}: {reason}; a metric is called with predictions and references, "
        "two lists of one length"
    )


def _key(path: Path, function: str, key: object) -> str:
    if not isinstance(key, str):
        raise ConfigError(
            f"{path}:{function} returned a dict with the key {key!r}, expected names: return a dict such as "
            '{"score": 0.5}'
        )
    return key


def _number(path: Path, function: str, value: object) -> float:
    # NumPy's and torch's scalars are numbers too, and say so by converting.
    if not isinstance(value, str | bytes | bool):
        try:
            return float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            pass
    raise ConfigError(
        f"{path}:{function} returned {type(value).__name__} where a number was expected; return a number or "
        "a dict of numbers"
    )
