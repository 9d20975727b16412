"""What an adapter folder says it was made for: its base, and the tasks it was trained for."""

import os
from pathlib import Path

from petune.adapter import LearnedTask
from petune.backbone.task_names import NAMED_CLASSES, TaskName
from petune.checkpoint import adapterhub, manifest, peft
from petune.checkpoint.named_tasks import choose_task
from petune.checkpoint.tensor_files import read_tensors
from petune.errors import AdapterFormatError


def base_of(folder: str | Path) -> tuple[str, str | None]:
    """Return the name and revision of the base that the adapter in ``folder`` was made for.

    Raises:
        AdapterFormatError: the folder names no base.
    """
    folder = Path(folder)
    require_adapter(folder)
    content = manifest.read_manifest(folder)
    if content is not None:
        return content.base.name, content.base.revision
    if adapterhub.wrote(folder):
        return adapterhub.base_of(folder), None
    config = manifest.read_json(folder / peft.CONFIG_FILE)
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(name, str) or not name:
        raise AdapterFormatError(f"{folder}/{peft.CONFIG_FILE} names no base model; give it with --model")
    return name, revision if isinstance(revision, str) else None


def tasks_of(folder: str | os.PathLike[str]) -> tuple[LearnedTask, ...]:
    """Return the tasks that the adapter in ``folder`` was trained for at once; none where they were not named.

    Raises:
        AdapterFormatError: the folder is no adapter, or malformed.
    """
    folder = Path(folder)
    require_adapter(folder)
    content = manifest.read_manifest(folder)
    return () if content is None else content.tasks


def task_of(folder: str | os.PathLike[str], task_name: str | None = None) -> tuple[TaskName | None, tuple[str, ...]]:
    """Return the task that the adapter in ``folder`` was trained for, and the classes of its head.

    HF PEFT's folders do not name classes: they are numbered then, as transformers does. AdapterHub's name a task only
    where they hold a head.

    Args:
        folder: where the adapter is.
        task_name: which of its tasks, where it has several; by default that of the head its base was loaded with.

    Raises:
        AdapterFormatError: the folder is no adapter, or malformed.
        ConfigError: it was not trained for a task of that name.
    """
    folder = Path(folder)
    require_adapter(folder)
    content = manifest.read_manifest(folder)
    if task_name is not None:
        chosen = choose_task(folder, () if content is None else content.tasks, task_name)
        return chosen.task, chosen.labels
    if content is not None:
        return content.task, content.labels
    if adapterhub.wrote(folder):
        return adapterhub.task_of(folder)
    task = peft.task_of(manifest.read_json(folder / peft.CONFIG_FILE))
    if task == "masked_lm":  # PEFT says the same of any base whose head is of no task that it knows
        return None, ()
    if task not in NAMED_CLASSES:
        return task, ()
    return task, peft.numbered_labels(read_tensors(folder / peft.WEIGHTS_FILE))


def require_adapter(folder: Path) -> None:
    """Check that ``folder`` holds an adapter of a kind that is read.

    Raises:
        AdapterFormatError: it does not.
    """
    if not folder.is_dir():
        raise AdapterFormatError(f"there is no folder {folder}; give the folder that training wrote")
    if (folder / manifest.FILE_NAME).exists() or (folder / peft.WEIGHTS_FILE).exists() or adapterhub.wrote(folder):
        return
    convert = (
        "in a trusted environment convert it once: torch.load(path, weights_only=True), then"
        f" safetensors.torch.save_file(tensors, '{peft.WEIGHTS_FILE}')"
    )
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".pkl", ".ckpt"})
    if pickles:
        raise AdapterFormatError(
            f"{folder} holds only {pickles[0]}, a pickle, which can run code and is never read here; {convert}"
        )
    known = (manifest.FILE_NAME, peft.WEIGHTS_FILE)
    inside = sorted(p.name for p in folder.iterdir() if any((p / name).is_file() for name in known))
    if inside:
        step = f"; it holds {', '.join(inside[:5])}: give one of these folders"
    elif (folder / peft.CONFIG_FILE).exists():
        step = f"; where its repository has adapter_model.bin, a pickle, {convert}"
    else:
        step = "; give the folder that training wrote"
    raise AdapterFormatError(f"{folder} is no adapter: it has neither {' nor '.join(known)}{step}")
