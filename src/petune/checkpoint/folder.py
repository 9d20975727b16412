"""Adapter folders: saving one, and loading one onto a base, with every check before the first use."""

import json
import logging
from collections.abc import Iterable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from petune import __version__, methods
from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, LearnedTask, build_adapter
from petune.backbone.base import Base
from petune.backbone.loading import quiet
from petune.backbone.tokenizer import save_tokenizer
from petune.checkpoint import adapterhub, card, manifest, peft
from petune.checkpoint.base_check import check_base
from petune.checkpoint.durable import write_file, write_files, write_text
from petune.checkpoint.made_for import require_adapter
from petune.checkpoint.named_tasks import choose_task, of_task
from petune.checkpoint.peft_tables import without_base_tables
from petune.checkpoint.tensor_files import read_tensors
from petune.errors import AdapterFormatError, ConfigError
from petune.methods.config import MethodConfig
from petune.methods.method import Method

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
        tasks=adapter.tasks,
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
    (folder / manifest.STACK_FILE_NAME).unlink(missing_ok=True)  # the folder would still be read as an earlier stack
    return folder


def load_adapter(
    folder: str | Path,
    base: Base,
    *,
    name: str = "default",
    allow_base_mismatch: bool = False,
    task_name: str | None = None,
) -> Adapter:
    """Return the adapter that ``folder`` holds, checked against its manifest and against ``base``.

    Reads petune's folders, HF PEFT's and AdapterHub's. A folder without ``petune.json`` does not prove which base it
    was made for: only names and shapes can be checked then, and a warning says so.

    Args:
        folder: where it is.
        base: what it will be attached to.
        name: what to call it.
        allow_base_mismatch: take it even for a base it was not made for.
        task_name: take what is for this one of its tasks alone, with its head as the head of ``base``.

    Raises:
        ConfigError: it was not trained for a task of that name.
        AdapterFormatError: a file is missing, malformed, changed since it was saved, or asks for what petune lacks.
        BaseMismatchError: the adapter was made for another base, and ``allow_base_mismatch`` is false.
    """
    folder = Path(folder)
    require_adapter(folder)
    content = manifest.read_manifest(folder)
    chosen: LearnedTask | None = None
    imported: adapterhub.Imported | None = None
    if task_name is not None:
        chosen = choose_task(folder, () if content is None else content.tasks, task_name)
    if content is not None:
        check_base(content, base, folder, allow_base_mismatch=allow_base_mismatch, chosen=chosen)
        method, options = content.method, content.config
    elif adapterhub.wrote(folder):
        imported = adapterhub.read(folder, base, allow_base_mismatch=allow_base_mismatch)
        method, options = imported.method, dict(imported.options)
    else:
        config = manifest.read_json(folder / peft.CONFIG_FILE)
        method = peft.method_of(config)
        options = peft.to_options(peft.LAYOUTS[method], config, base.model, base.structure)
    if content is None:
        logger.warning(
            "%s has no %s: its base is unverified, only names and shapes are checked",
            folder,
            manifest.FILE_NAME,
        )
    try:
        settings = methods.get(method).configure(options)
        if settings.new_tokens:
            _add_tokens(folder, settings, base)
        adapter = build_adapter(method, options, base.model, base.structure, name=name, shapes_only=True)
    except ConfigError as error:
        raise AdapterFormatError(f"{folder} does not fit this base: {error}") from error
    if imported is not None:
        adapter.load_tensors(imported.tensors(adapter, base))
    else:
        adapter.load_tensors(_read_tensors(folder, adapter, base, content, chosen))
    if content is not None:
        adapter.data_format = content.data_format if chosen is None else chosen.data_format
        adapter.tasks = content.tasks if chosen is None else ()
        if content.trained_config is not None:
            adapter.trained_config = _trained_config(adapter.method, content.trained_config, folder)
    adapter.set_trainable(False)
    return adapter


def _trained_config(method: Method[Any], options: Mapping[str, Any], folder: Path) -> MethodConfig:
    try:
        config: MethodConfig = method.configure(options)
    except ConfigError as error:
        raise AdapterFormatError(f"{folder / manifest.FILE_NAME}: 'trained_config': {error}") from error
    return config


def _add_tokens(folder: Path, config: MethodConfig, base: Base) -> None:
    """Add the adapter's new tokens to the base; their ids must be those that it has rows for."""
    if isinstance(config.new_tokens, str):  # a file of somebody's choice, which an adapter has no business reading
        raise AdapterFormatError(f"{folder}: new_tokens is {config.new_tokens!r}, expected the list of its tokens")
    ids = base.add_tokens(config.new_tokens)
    rows = config.trainable_token_indices
    if isinstance(rows, Mapping) and any(not set(ids) <= set(indices) for indices in rows.values()):
        raise AdapterFormatError(
            f"{folder} has rows for tokens {sorted(next(iter(rows.values())))}, but on this base its new tokens are"
            f" {sorted(ids)}: others were added before; load the base again for this adapter"
        )


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


def _read_tensors(
    folder: Path, adapter: Adapter, base: Base, content: manifest.Manifest | None, chosen: LearnedTask | None
) -> dict[str, Tensor]:
    """Return the adapter's tensors under our names, compared with the manifest where there is one.

    Of several tasks, those of the heads of other than the chosen one are left out.
    """
    method = adapter.method.name
    if method in peft.MODEL_LAYOUT:
        head = None if chosen is None else chosen.head
        tensors = _read_model_tensors(folder, adapter, base, content.files if content is not None else (), head)
        if chosen is not None:
            return tensors  # a part of the files, which are those that were saved
    else:
        tensors = read_tensors(folder / peft.WEIGHTS_FILE)
    if content is not None:
        _check_digest(content, tensors, folder)
    in_peft_layout = content is None or peft.CONFIG_FILE in content.files
    layout = peft.LAYOUTS.get(method) if in_peft_layout else None
    if layout is None:
        return tensors if chosen is None else of_task(tensors, {name: name for name in adapter.tensors()}, chosen.head)
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


def _read_model_tensors(
    folder: Path, adapter: Adapter, base: Base, files: Iterable[str], head: str | None = None
) -> dict[str, Tensor]:
    # transformers and torch may choose different names for what a model's modules share.
    parameters = dict(base.model.named_parameters(remove_duplicate=False))
    own = {id(parameters[name.removesuffix(".master")]): name for name in adapter.tensors()}
    tensors: dict[str, Tensor] = {}
    for name in files:
        if name.endswith(".safetensors"):
            tensors |= read_tensors(folder / name)
    found = of_task(tensors, {name: name for name in parameters}, head)
    return {own[id(parameters[name])]: value for name, value in found.items() if id(parameters[name]) in own}


def _save_model(model: AdaptedModel, adapter: Adapter, folder: Path) -> tuple[list[str], dict[str, Tensor]]:
    # Some architectures go by other tensor names in older files; under the live names a folder reads back exactly.
    with quiet():
        files = write_files(folder, lambda path: model.model.save_pretrained(path, save_original_format=False))
    (folder / peft.CONFIG_FILE).unlink(missing_ok=True)  # transformers would add an earlier adapter to its own base
    return files, _read_model_tensors(folder, adapter, model.base, files)


def _save_tokenizer(base: Base, folder: Path) -> list[str]:
    return write_files(folder, partial(save_tokenizer, base.tokenizer)) if base.has_tokenizer else []


def _only(model: AdaptedModel) -> str:
    names = list(model.adapters)
    if len(names) != 1:
        raise ConfigError(f"name the adapter to save; attached: {', '.join(names) or 'none'}")
    return names[0]
