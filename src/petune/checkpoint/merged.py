"""A model with its adapter merged in, as a plain transformers folder."""

from functools import partial
from pathlib import Path

from petune.adapted_model import AdaptedModel
from petune.backbone.loading import quiet
from petune.backbone.quantization import unpacked
from petune.backbone.tokenizer import save_tokenizer
from petune.checkpoint.durable import explained, write_files
from petune.checkpoint.manifest import FILE_NAME
from petune.checkpoint.peft_layout import CONFIG_FILE
from petune.errors import ConfigError, OutputFolderError


def save_merged(model: AdaptedModel, folder: Path, *, overwrite: bool = False) -> Path:
    """Merge the active adapters of ``model``, write the result to ``folder``, and un-merge them again.

    Raises:
        ConfigError: nothing is active, or it cannot be merged.
        OutputFolderError: the folder holds something already and ``overwrite`` is false, holds an adapter or the base
            itself, or cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputFolderError(f"{folder} is a file; give a folder with --output-dir")
    if folder.exists() and any(folder.iterdir()) and not overwrite:
        raise OutputFolderError(f"{folder} exists already; give another --output-dir, or --overwrite")
    if Path(model.base.name).is_dir() and folder.resolve() == Path(model.base.name).resolve():
        raise OutputFolderError(f"{folder} is the base model's own folder; give another --output-dir")
    if any((folder / name).exists() for name in (CONFIG_FILE, FILE_NAME)):
        raise OutputFolderError(
            f"{folder} holds an adapter, which would be applied to the merged model again; give another --output-dir"
        )
    active = model.active
    if not active:
        raise ConfigError("no adapter is active: there is nothing to merge")
    merged: list[str] = []
    try:
        for name in active:
            model.merge(name)
            merged.append(name)
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if overwrite:
                for stale in folder.glob("model*.safetensors*"):
                    stale.unlink()
        with quiet(), unpacked(model.model):
            write_files(folder, model.model.save_pretrained)
        if model.base.has_tokenizer:
            write_files(folder, partial(save_tokenizer, model.tokenizer))
    finally:
        for name in reversed(merged):
            model.unmerge(name)
        model.activate(*active)  # in the order they had
    return folder
