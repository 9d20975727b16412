"""Adapter folders: saving one, and loading one onto a base, with every check before the first use."""

import json
import logging
import os
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from petune import __version__
from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, build_adapter
from petune.backbone.base import Base
from petune.backbone.fingerprint import Fingerprint, compare
from petune.backbone.loading import quiet
from petune.backbone.task_names import NAMED_CLASSES, TaskName
from petune.checkpoint import card, manifest, peft
from petune.checkpoint.durable import write_file, write_files, write_text
from petune.checkpoint.peft_tables import without_base_tables
from petune.errors import AdapterFormatError, BaseMismatchError, ConfigError

logger = logging.getLogger("petune")


def save_adapter(
    model: AdaptedModel,
    folder: str | Path,
    *,
    name: str | None = None,
    training: dict[str, Any] | None = None,
) -> Path:
    """Write the attached adapter ``name`` (the only one, if not given) as a folder, for HF PEFT too where it can be.

    What only training needs is left out. Each file is complete or absent, and ``petune.json``, written last, vouches
    for all of them.

    Returns:
        The folder.

    Raises:
        OutputFolderError, ResourceError: it cannot be written.
    """
    folder = Path(folder)
    adapter = model.adapter(name if name is not None else _only(model)).baked()
    base = model.base
    tokenizer_files = _save_tokenizer(base, folder)
    if adapter.method.name in peft.MODEL_LAYOUT:
        weight_files, tensors = _save_model(model, adapter, folder)
    else:
        weight_files, tensors = _save_tensors(adapter, base, folder)
    write_text(folder / card.FILE_NAME, card.model_card(adapter, base, training))
    content = manifest.Manifest(
        method=adapter.method.name,
        config=adapter.config.model_dump(mode="json"),
        trained_config=None
        if adapter.trained_config == adapter.config
        else adapter.trained_config.model_dump(mode="json"),
        base=manifest.BaseIdentity(name=base.name, revision=base.revision, fingerprint=base.fingerprint.to_dict()),
        task=base.task,
        labels=base.labels,
        digest=manifest.tensors_digest(tensors),
        files={file: manifest.file_digest(folder / file) for file in (*weight_files, *tokenizer_files)},
        versions={
            "petune": __version__,
            **{package: version(package) for package in ("torch", "transformers", "safetensors")},
        },
        data_format=adapter.data_format,
        training=training,
    )
    write_text(folder / manifest.FILE_NAME, json.dumps(content.model_dump(mode="json"), indent=2) + "\n")
    return folder


def load_adapter(
    folder: str | Path, base: Base, *, name: str = "default", allow_base_mismatch: bool = False
) -> Adapter:
    """Return the adapter that ``folder`` holds, checked against its manifest and against ``base``.

    Reads petune's folders and HF PEFT's. A folder without ``petune.json`` says nothing of the base it was made for:
    only names and shapes can be checked then, and a warning says so.

    Raises:
        AdapterFormatError: a file is missing, malformed, changed since it was saved, or asks for what petune lacks.
        BaseMismatchError: the adapter was made for another base, and ``allow_base_mismatch`` is false.
    """
    folder = Path(folder)
    _require_adapter(folder)
    content = manifest.read_manifest(folder)
    if content is not None:
        check_base(content, base, folder, allow_base_mismatch=allow_base_mismatch)
        method, options = content.method, content.config
    else:
        config = manifest.read_json(folder / peft.CONFIG_FILE)
        method = peft.method_of(config)
        options = peft.to_options(peft.LAYOUTS[method], config, base.model, base.structure)
        logger.warning(
            "%s has no %s: its base is unverified, only names and shapes are checked",
            folder,
            manifest.FILE_NAME,
        )
    try:
        if options.get("new_tokens"):
            _add_tokens(folder, options, base)
        adapter = build_adapter(method, options, base.model, base.structure, name=name, shapes_only=True)
    except ConfigError as error:
        raise AdapterFormatError(f"{folder} does not fit this base: {error}") from error
    adapter.load_tensors(_read_tensors(folder, adapter, base, content))
    if content is not None:
        adapter.data_format = content.data_format
        if content.trained_config is not None:
            adapter.trained_config = adapter.method.configure(content.trained_config)
    adapter.set_trainable(False)
    return adapter


def _add_tokens(folder: Path, options: Mapping[str, Any], base: Base) -> None:
    """Add the adapter's new tokens to the base; their ids must be those that it has rows for."""
    ids = base.add_tokens(options["new_tokens"])
    rows = options.get("trainable_token_indices")
    if isinstance(rows, Mapping) and any(not set(ids) <= set(indices) for indices in rows.values()):
        raise AdapterFormatError(
            f"{folder} has rows for tokens {sorted(next(iter(rows.values())))}, but on this base its new tokens are"
            f" {sorted(ids)}: others were added before; load the base again for this adapter"
        )


def check_base(content: manifest.Manifest, base: Base, folder: Path, *, allow_base_mismatch: bool = False) -> None:
    """Compare the base an adapter was made for with the one at hand.

    Raises:
        BaseMismatchError: they differ, and ``allow_base_mismatch`` is false.
    """
    if (content.task, content.labels) != (base.task, base.labels):
        wanted, found = (
            f"{task} ({', '.join(labels)})" if labels else task
            for task, labels in ((content.task, content.labels), (base.task, base.labels))
        )
        raise BaseMismatchError(
            f"{folder} was trained for {wanted}, and the base was loaded for {found}; load it for that"
        )
    differences = compare(Fingerprint.from_dict(content.base.fingerprint), base.fingerprint)
    if not differences:
        return
    message = f"{folder} was made for the base '{content.base.name}', not for '{base.name}': {'; '.join(differences)}"
    if not allow_base_mismatch:
        raise BaseMismatchError(f"{message}. Load that base, or pass --allow-base-mismatch to use this one anyway")
    logger.warning("%s; used anyway, as asked", message)


def base_of(folder: str | Path) -> tuple[str, str | None]:
    """Return the name and revision of the base that the adapter in ``folder`` was made for.

    Raises:
        AdapterFormatError: the folder names no base.
    """
    folder = Path(folder)
    _require_adapter(folder)
    content = manifest.read_manifest(folder)
    if content is not None:
        return content.base.name, content.base.revision
    config = manifest.read_json(folder / peft.CONFIG_FILE)
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(name, str) or not name:
        raise AdapterFormatError(f"{folder}/{peft.CONFIG_FILE} names no base model; give it with --model")
    return name, revision if isinstance(revision, str) else None


def task_of(folder: str | os.PathLike[str]) -> tuple[TaskName | None, tuple[str, ...]]:
    """Return the task that the adapter in ``folder`` was trained for, and the classes of its head.

    HF PEFT's folders do not name classes: they are numbered then, as transformers does.

    Raises:
        AdapterFormatError: the folder is no adapter, or malformed.
    """
    folder = Path(folder)
    _require_adapter(folder)
    content = manifest.read_manifest(folder)
    if content is not None:
        return content.task, content.labels
    task = peft.task_of(manifest.read_json(folder / peft.CONFIG_FILE))
    if task == "masked_lm":  # PEFT says the same of any base whose head is of no task that it knows
        return None, ()
    if task not in NAMED_CLASSES:
        return task, ()
    return task, peft.numbered_labels(_read_file(folder / peft.WEIGHTS_FILE))


def _require_adapter(folder: Path) -> None:
    if not folder.is_dir():
        raise AdapterFormatError(f"there is no folder {folder}; give the folder that training wrote")
    if (folder / manifest.FILE_NAME).exists() or (folder / peft.WEIGHTS_FILE).exists():
        return
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".pkl", ".ckpt"})
    if pickles:
        raise AdapterFormatError(
            f"{folder} holds only {pickles[0]}, a pickle, which can run code and is never read here; in a trusted"
            " environment convert it once: torch.load(path, weights_only=True), then"
            f" safetensors.torch.save_file(tensors, '{peft.WEIGHTS_FILE}')"
        )
    raise AdapterFormatError(f"{folder} is no adapter: it has neither {manifest.FILE_NAME} nor {peft.WEIGHTS_FILE}")


def _save_tensors(adapter: Adapter, base: Base, folder: Path) -> tuple[list[str], dict[str, Tensor]]:
    """Write the adapter's own tensors: as PEFT spells them where it has the method, else under our names."""
    layout = peft.layout_of(adapter, base.structure)
    if layout is None:
        tensors = {name: tensor.cpu().contiguous() for name, tensor in adapter.tensors().items()}
    else:
        tensors = peft.to_tensors(layout, adapter, base.structure)
    write_file(folder / peft.WEIGHTS_FILE, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    if layout is None:
        (folder / peft.CONFIG_FILE).unlink(missing_ok=True)  # one of an earlier adapter would speak for this one
        return [peft.WEIGHTS_FILE], tensors
    write_text(folder / peft.CONFIG_FILE, peft.to_json(layout, adapter, base))
    return [peft.WEIGHTS_FILE, peft.CONFIG_FILE], tensors


def _read_tensors(folder: Path, adapter: Adapter, base: Base, content: manifest.Manifest | None) -> dict[str, Tensor]:
    """Return the adapter's tensors under our names, compared with the manifest where there is one."""
    method = adapter.method.name
    if method in peft.MODEL_LAYOUT:
        tensors = _read_model_tensors(folder, adapter, content.files if content is not None else ())
    else:
        tensors = _read_file(folder / peft.WEIGHTS_FILE)
    if content is not None:
        _check_digest(content, tensors, folder)
    in_peft_layout = content is None or peft.CONFIG_FILE in content.files
    layout = peft.LAYOUTS.get(method) if in_peft_layout else None
    if layout is None:
        return tensors
    tensors = without_base_tables(tensors, layout.prefix, adapter.replacements, base.model)
    return peft.from_tensors(layout, tensors, adapter, base.structure)


def _check_digest(content: manifest.Manifest, tensors: Mapping[str, Tensor], folder: Path) -> None:
    actual = manifest.tensors_digest(tensors)
    if actual != content.digest:
        weights = ", ".join(sorted(name for name in content.files if name.endswith(".safetensors")))
        raise AdapterFormatError(
            f"{folder} does not hold the tensors that were saved: {weights} has digest {actual[:19]}...,"
            f" {manifest.FILE_NAME} says {content.digest[:19]}...; restore both from one copy"
        )


def _read_model_tensors(folder: Path, adapter: Adapter, files: Iterable[str]) -> dict[str, Tensor]:
    wanted = {name.removesuffix(".master"): name for name in adapter.tensors()}
    found: dict[str, Tensor] = {}
    for name in files:
        if name.endswith(".safetensors"):
            read = _read_file(folder / name)
            found |= {wanted[tensor]: value for tensor, value in read.items() if tensor in wanted}
    return found


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise AdapterFormatError(f"{path} is not a readable safetensors file ({error})") from error


def _save_model(model: AdaptedModel, adapter: Adapter, folder: Path) -> tuple[list[str], dict[str, Tensor]]:
    # Some architectures go by other tensor names in older files; under the live names a folder reads back exactly.
    with quiet():
        files = write_files(folder, lambda path: model.model.save_pretrained(path, save_original_format=False))
    return files, _read_model_tensors(folder, adapter, files)


def _save_tokenizer(base: Base, folder: Path) -> list[str]:
    return write_files(folder, base.tokenizer.save_pretrained) if base.has_tokenizer else []


def _only(model: AdaptedModel) -> str:
    names = list(model.adapters)
    if len(names) != 1:
        raise ConfigError(f"name the adapter to save; attached: {', '.join(names) or 'none'}")
    return names[0]
