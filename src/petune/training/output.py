"""The output folder of a run: what lies in it, and when it may be written to."""

import os
import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from petune.checkpoint import card, durable, manifest, peft
from petune.checkpoint.durable import explained
from petune.errors import ConfigError, OutputFolderError
from petune.training import checkpoints, recipe, records

REPORT_FILE = "data_report.json"
RESULTS_FILE = "train_results.json"

_OURS = frozenset(
    {
        recipe.FILE_NAME,
        REPORT_FILE,
        RESULTS_FILE,
        records.METRICS_FILE,
        records.STATE_FILE,
        records.PLOT_FILE,
        manifest.FILE_NAME,
        peft.CONFIG_FILE,
        peft.WEIGHTS_FILE,
    }
)
_MODEL_FILES = frozenset({"config.json", "tokenizer.json", "tokenizer_config.json"})


def line_to_resume(folder: Path, *, trust_remote_code: bool) -> str:
    """Return the command that goes on with the run in ``folder``."""
    words = ["petune", "train", "--resume", "--output-dir", str(folder)]
    return shlex.join([*words, "--trust-remote-code"] if trust_remote_code else words)


def prepare(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Check that a run may write to ``folder``, and make it; nothing in it changes.

    Raises:
        ConfigError: both flags are given.
        OutputFolderError: it is not a folder, cannot be written, holds a run and neither flag is given, or holds files
            of others where a run would write.
    """
    if resume and overwrite:
        raise ConfigError("--resume goes on with the run, --overwrite begins it anew; give one of them")
    if folder.exists() and not folder.is_dir():
        raise OutputFolderError(f"{folder} is a file; give a folder with --output-dir")
    run = _files_of_run(folder)
    _refuse_files_of_others(folder, run)
    if run and not resume and not overwrite:
        raise OutputFolderError(
            f"{folder} holds a run already ({', '.join(run[:3])}, ...): go on with --resume, replace it with"
            " --overwrite, or give another --output-dir"
        )
    strange = [name for name in run if name.startswith("checkpoint-") and not _is_checkpoint(folder / name)]
    if strange and overwrite:
        raise OutputFolderError(
            f"{folder} holds {strange[0]}, which is no checkpoint of petune, so --overwrite leaves it alone;"
            " move it away, or give another --output-dir"
        )
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}.partial"
        probe.touch()
        probe.unlink()


@contextmanager
def held(folders: Sequence[Path], *, resume: bool, overwrite: bool) -> Iterator[None]:
    """Keep every other run out of ``folders`` for the block; what one that was killed left half written is removed.

    Raises:
        OutputFolderError: another run writes there, or has since :func:`prepare` was asked.
    """
    with ExitStack() as holds:
        for folder in folders:
            holds.enter_context(durable.held(folder, "run"))
            prepare(folder, resume=resume, overwrite=overwrite)
            durable.remove_partial(folder)
        yield


def clear(folder: Path) -> None:
    """Remove the run that ``folder`` holds, and nothing else."""
    with explained(folder):
        for name in _files_of_run(folder):
            _remove(folder / name)


def refuse_base_folder(folder: Path, base: str) -> None:
    """Refuse to write a run into the folder that the base model called ``base`` is loaded from.

    Raises:
        OutputFolderError: they are the same folder.
    """
    place = Path(base).expanduser()
    if base != "demo" and place.is_dir() and folder.resolve() == place.resolve():
        raise OutputFolderError(f"{folder} is the base model's own folder; give another --output-dir")


def _files_of_run(folder: Path) -> list[str]:
    """Return the names of what a run has written into ``folder``: known ones, and those its manifest lists."""
    names = _names(folder)
    ours = _OURS.union(manifest.listed_files(folder))
    found = [name for name in names if name in ours or name.startswith("checkpoint-")]
    if card.FILE_NAME in names and card.is_card(folder / card.FILE_NAME):
        found.append(card.FILE_NAME)
    return sorted(found)


def _refuse_files_of_others(folder: Path, run: list[str]) -> None:
    """Refuse a folder in which a run would write over what somebody else has put there."""
    names = _names(folder)
    if card.FILE_NAME in names and card.FILE_NAME not in run:
        raise OutputFolderError(
            f"{folder} holds a {card.FILE_NAME} that petune did not write, where the model card belongs; move it away,"
            " or give another --output-dir"
        )
    models = sorted(name for name in names if name.endswith(".safetensors") or name in _MODEL_FILES)
    if models and not run:
        raise OutputFolderError(
            f"{folder} holds a model that petune did not train ({', '.join(models[:3])}); give another --output-dir"
        )


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def _is_checkpoint(path: Path) -> bool:
    return not path.is_symlink() and checkpoints.DIGESTS in _names(path)


def _remove(path: Path) -> None:
    if _is_checkpoint(path):
        shutil.rmtree(path)
    else:
        path.unlink()
