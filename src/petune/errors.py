"""Every exception petune raises on purpose, and the exit code each gives the command line.

```text
PetuneError                        exit  meaning
├── InputError                        2  what the user gave cannot be used as it is
│   ├── ConfigError                   2  an option, a recipe key, a method's setting
│   │   ├── TargetError               2  target modules that match nothing in the base
│   │   └── MetricError               2  a metric of the user's own that does not give what decides
│   ├── DataError                     2  the data: files, columns, templates, lengths, labels
│   ├── BaseModelError                2  a base model that cannot be had or cannot be used
│   └── OutputFolderError             2  the folder to write to: exists, is read-only, is not ours
├── ArtifactError                     3  a file that should be sound is not
│   ├── AdapterFormatError            3  an adapter folder: missing, malformed, tampered
│   ├── BaseMismatchError             3  an adapter made for another base model
│   └── CheckpointError               3  a training checkpoint that cannot be resumed
├── ResourceError                     4  memory, disk space, a missing optional package
│   └── MissingExtraError             4  an optional dependency that is not installed
├── DivergedError                     5  training met a NaN or an infinity and stopped before the step
└── Interrupted                 130/143  Ctrl-C or SIGTERM; the state was saved first
```

A message says what was got, what was expected, the real choices, and what to do next, in one line
(``DataError`` may carry one line for each bad row).
"""

import difflib
from collections.abc import Iterable


class PetuneError(Exception):
    """Base of every error petune raises on purpose; ``exit_code`` is what the command line returns."""

    exit_code = 1


class InputError(PetuneError):
    """What the user gave cannot be used as it is."""

    exit_code = 2


class ConfigError(InputError):
    """An option, a recipe key or a method's setting is unknown or out of range."""


class TargetError(ConfigError):
    """Target modules match nothing, or not what the method needs, in this base model."""


class MetricError(ConfigError):
    """A metric of the user's own does not return the value that decides."""


class DataError(InputError):
    """The data cannot be used: files, columns, templates, lengths or labels."""


class BaseModelError(InputError):
    """The base model cannot be had, or is of a kind the request cannot use."""


class OutputFolderError(InputError):
    """The output folder exists already, cannot be written, or is not one of ours."""


class ArtifactError(PetuneError):
    """A file that should be sound is missing, malformed or does not belong here."""

    exit_code = 3


class AdapterFormatError(ArtifactError):
    """An adapter folder is missing files, malformed, or not what its digest says."""


class BaseMismatchError(ArtifactError):
    """The adapter was made for another base model."""


class CheckpointError(ArtifactError):
    """A training checkpoint is missing, damaged, or belongs to another run."""


class ResourceError(PetuneError):
    """The machine lacks memory, disk space or a package."""

    exit_code = 4


class MissingExtraError(ResourceError):
    """An optional dependency is not installed; the message names the extra to install."""


class DivergedError(PetuneError):
    """Training met a NaN or an infinity and stopped before the optimiser step."""

    exit_code = 5


class Interrupted(PetuneError):  # noqa: N818 - named for what happened, as KeyboardInterrupt is
    """A signal stopped the work after its state was saved.

    Args:
        message: what was saved and the command that goes on from there.
        signal_number: the signal received; the exit code is 128 plus it.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether ``error`` tells that memory ran out, on the machine or on a device."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | ResourceError) and any(words in said for words in _NO_MEMORY)
    )


def nearest(got: str, choices: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the choice most like ``got``, or an empty string."""
    match = difflib.get_close_matches(got, list(choices), n=1, cutoff=0.6)
    return f" Did you mean '{match[0]}'?" if match else ""
