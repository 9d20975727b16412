"""The output folder of a run: what lies in it, and when it may be written to."""

import os
import shutil
from pathlib import Path

from petune.backbone.base import Base
from petune.checkpoint import card, manifest, peft
from petune.checkpoint.durable import explained
from petune.errors import OutputFolderError
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
        card.FILE_NAME,
        manifest.FILE_NAME,
        peft.CONFIG_FILE,
        peft.WEIGHTS_FILE,
    }
)


def prepare(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Make ``folder`` ready for a run; nothing in it is lost unless ``overwrite`` says so.

    Raises:
        OutputFolderError: it is not a folder, cannot be written, or holds a run and neither flag is given.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputFolderError(f"{folder} is a file; give a folder with --output-dir")
    run = [name for name in _names(folder) if name in _OURS or name.startswith("checkpoint-")]
    if run and not resume and not overwrite:
        raise OutputFolderError(
            f"{folder} holds a run already ({', '.join(sorted(run)[:3])}, ...): go on with --resume, replace it with"
            " --overwrite, or give another --output-dir"
        )
    foreign = [name for name in run if name.startswith("checkpoint-") and not _is_checkpoint(folder / name)]
    if foreign and overwrite and not resume:
        raise OutputFolderError(
            f"{folder} holds {foreign[0]}, which is no checkpoint of petune, so --overwrite leaves it alone;"
            " move it away, or give another --output-dir"
        )
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}.partial"
        probe.touch()
        probe.unlink()
        if overwrite and not resume:
            for name in run:
                _remove(folder / name)


def refuse_base_folder(folder: Path, base: Base) -> None:
    """Refuse to write a run into the folder that the base model was loaded from.

    Raises:
        OutputFolderError: they are the same folder.
    """
    if Path(base.name).is_dir() and folder.resolve() == Path(base.name).resolve():
        raise OutputFolderError(f"{folder} is the base model's own folder; give another --output-dir")


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def _is_checkpoint(path: Path) -> bool:
    return not path.is_symlink() and checkpoints.DIGESTS in _names(path)


def _remove(path: Path) -> None:
    if _is_checkpoint(path):
        shutil.rmtree(path)
    else:
        path.unlink()
