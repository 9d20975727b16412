"""The engine that a recipe asks for."""

from importlib.util import find_spec

from petune.comparison.assignment import Assignments
from petune.comparison.engine import Engine, InlineEngine
from petune.comparison.folder import Folder
from petune.comparison.local_engine import LocalEngine
from petune.comparison.recipe import CompareOptions, EngineName
from petune.comparison.watching import Watcher
from petune.errors import MissingExtraError


def check_engine(name: EngineName) -> None:
    """Check that what an engine needs is installed.

    Raises:
        MissingExtraError: it is not.
    """
    if name == "ray" and find_spec("ray") is None:
        raise MissingExtraError("--engine ray needs a package that is not installed: pip install 'petune[ray]'")


def make_engine(options: CompareOptions, assignments: Assignments, folder: Folder, watcher: Watcher) -> Engine:
    """Return the engine that a recipe asks for.

    Args:
        options: the recipe's.
        assignments: of the comparison's jobs.
        folder: the comparison's.
        watcher: told of what happens.

    Raises:
        MissingExtraError: what the engine needs is not installed.
        ResourceError: its cluster cannot be reached, or cannot hold a trial.
    """
    check_engine(options.engine)
    if options.engine == "inline":
        return InlineEngine(assignments, folder, watcher)
    if options.engine == "local":
        return LocalEngine(assignments, folder, watcher, retries=options.attempts_again)
    from petune.comparison.ray_engine import RayEngine  # loads ray

    return RayEngine(options, assignments, folder, watcher)
