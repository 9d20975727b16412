"""Adapter folders of AdapterHub's library, ``adapters`` 1.x: read, never written.

``adapter_config.json`` and ``adapter.safetensors``, and perhaps a head beside them. The library's default is a pickle,
which is refused with the line that converts it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from torch import Tensor

from petune.adapter import Adapter
from petune.backbone.base import Base
from petune.backbone.task_names import TaskName
from petune.checkpoint.adapterhub_bottleneck import BottleneckHubLayout
from petune.checkpoint.adapterhub_head import HEAD_CONFIG_FILE, HubHead, conversion, read_head
from petune.checkpoint.adapterhub_layout import CONFIG_FILE, WEIGHTS_FILE, HubAdapter, HubLayout, below_head
from petune.checkpoint.adapterhub_lora import LoRAHubLayout
from petune.checkpoint.adapterhub_prefix import PrefixHubLayout
from petune.checkpoint.manifest import read_json
from petune.checkpoint.tensor_files import read_tensors
from petune.errors import AdapterFormatError, BaseMismatchError, nearest

LAYOUTS: Mapping[str, HubLayout] = {
    "bottleneck": BottleneckHubLayout(),
    "lora": LoRAHubLayout(),
    "prefix_tuning": PrefixHubLayout(),
}
"""The layouts by our method's name."""

_PICKLE = "pytorch_adapter.bin"
_SEVERAL = "adapter_setup.json"
_FUSION = "adapter_fusion_config.json"
_DESCRIPTIVE = (
    "config",
    "config_id",
    "hidden_size",
    "model_class",
    "model_name",
    "model_type",
    "name",
    "type",
    "version",
)
_LIBRARY = "adapters."
_SCALES_ALPHA = (1, 1, 0)
"""The library's first version whose LoRA is scaled by alpha / r; those before trained with a scale of one."""


@final
@dataclass(frozen=True, slots=True)
class Imported:
    """An adapter of the library's, in petune's terms.

    Attributes:
        method: name of our method.
        options: its settings.
    """

    method: str
    options: Mapping[str, Any]
    _found: HubAdapter
    _head: HubHead | None

    def tensors(self, adapter: Adapter, base: Base) -> dict[str, Tensor]:
        """Return the tensors of ``adapter``, a fresh one of that method with those settings, head included.

        Raises:
            AdapterFormatError: a tensor is of a kind or shape the method does not have.
        """
        ours = LAYOUTS[self.method].to_own(self._found, adapter, base)
        return ours if self._head is None else {**ours, **self._head.to_own(adapter)}


def wrote(folder: Path) -> bool:
    """Say whether the library wrote ``folder``."""
    return any((folder / name).exists() for name in (WEIGHTS_FILE, _PICKLE, _SEVERAL, _FUSION, HEAD_CONFIG_FILE))


def base_of(folder: Path) -> str:
    """Return the name of the base that the adapter in ``folder`` was made for.

    Raises:
        AdapterFormatError: it names none, or is malformed.
    """
    name = _read_config(folder).get("model_name")
    if not isinstance(name, str) or not name:
        raise AdapterFormatError(f"{folder}/{CONFIG_FILE} names no base model; give it with --model")
    return name


def task_of(folder: Path) -> tuple[TaskName | None, tuple[str, ...]]:
    """Return the task of the head beside the adapter in ``folder``, and its classes; None where there is no head.

    Raises:
        AdapterFormatError: the head is malformed, or of a kind that petune lacks.
    """
    _read_config(folder)
    head = read_head(folder)
    return (None, ()) if head is None else (head.task, head.labels)


def read(folder: Path, base: Base, *, allow_base_mismatch: bool) -> Imported:
    """Return the adapter that ``folder`` holds, for ``base``.

    Raises:
        AdapterFormatError: a file is missing or malformed, or asks for what petune does not compute.
        BaseMismatchError: it was made for another kind of model, or for one with another head.
    """
    content = _read_config(folder)
    _check_base(content, base, folder, allow_base_mismatch=allow_base_mismatch)
    config = dict(content["config"])
    method = _method_of(config)
    _mend(content, config)
    tensors = {
        below_head(name, base): tensor
        for name, tensor in read_tensors(folder / WEIGHTS_FILE).items()
        if ".pool." not in name  # the same tensors once more, for each layer
    }
    found = HubAdapter(content["name"], config, tensors)
    options = LAYOUTS[method].options(found, base)
    head = read_head(folder)
    if head is not None:
        options |= head.options(base, folder)
    elif base.structure.head:
        raise AdapterFormatError(
            f"{folder} holds no head, and the base was loaded for {base.task}; load it for language modelling, or save"
            " the adapter with its head"
        )
    return Imported(method, options, found, head)


def _read_config(folder: Path) -> dict[str, Any]:
    """Return what ``adapter_config.json`` holds, checked as far as it is the same for all methods."""
    _require_readable(folder)
    content = read_json(folder / CONFIG_FILE)
    unknown = next((key for key in content if key not in _DESCRIPTIVE), None)
    if unknown is not None:
        raise AdapterFormatError(
            f"{CONFIG_FILE}: '{unknown}' is not known to this petune.{nearest(unknown, _DESCRIPTIVE)} If it is a note"
            " of yours, take it out"
        )
    if not isinstance(content.get("config"), dict):
        raise AdapterFormatError(
            f"{CONFIG_FILE}: 'config' is {content.get('config')!r}, expected the method's settings"
        )
    if not isinstance(content.get("name"), str) or not content["name"]:
        raise AdapterFormatError(
            f"{CONFIG_FILE}: 'name' is {content.get('name')!r}, expected what the adapter is called"
        )
    _version(content)
    return content


def _require_readable(folder: Path) -> None:
    """Make sure that the folder holds one adapter in safetensors."""
    if (folder / _SEVERAL).exists():
        raise AdapterFormatError(
            f"{folder} is a setup of several adapters ({_SEVERAL}); give the folders inside it, one --adapter each"
        )
    if (folder / _FUSION).exists() and not (folder / WEIGHTS_FILE).exists():
        raise AdapterFormatError(f"{folder} holds a fusion of adapters ({_FUSION}), which petune does not compute")
    if (folder / WEIGHTS_FILE).exists():
        return
    if (folder / _PICKLE).exists():
        raise AdapterFormatError(f"{folder} {conversion(_PICKLE, WEIGHTS_FILE)}")
    raise AdapterFormatError(f"{folder} has no {WEIGHTS_FILE}; save the adapter with use_safetensors=True")


def _version(content: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the version of the library that wrote a folder."""
    version = content.get("version")
    numbers = version.removeprefix(_LIBRARY).split(".")[:3] if isinstance(version, str) else []
    if not isinstance(version, str) or not version.startswith(_LIBRARY) or not all(n.isdecimal() for n in numbers[:2]):
        raise AdapterFormatError(
            f"{CONFIG_FILE}: 'version' is {version!r}, expected one of the library adapters 1.x (older files give other"
            " names to the same activation); load the folder with adapters 1.x and save it again"
        )
    return tuple(int(number) for number in numbers if number.isdecimal())


def _mend(content: Mapping[str, Any], config: dict[str, Any]) -> None:
    """Undo what an old version of the library wrote wrongly."""
    if config.get("architecture") == LAYOUTS["lora"].architecture and _version(content) < _SCALES_ALPHA:
        config["alpha"] = config.get("r")


def _method_of(config: Mapping[str, Any]) -> str:
    architecture = config.get("architecture")
    for method, layout in LAYOUTS.items():
        if layout.architecture == architecture:
            return method
    known = ", ".join("none (a bottleneck)" if x.architecture is None else x.architecture for x in LAYOUTS.values())
    raise AdapterFormatError(f"{CONFIG_FILE}: config.architecture is {architecture!r}; petune reads {known}")


def _check_base(content: Mapping[str, Any], base: Base, folder: Path, *, allow_base_mismatch: bool) -> None:
    config = base.model.config
    facts = {"model_type": config.model_type, "hidden_size": getattr(config, "hidden_size", None)}
    for field, actual in facts.items():
        wanted = content.get(field)
        if wanted is not None and wanted != actual and not allow_base_mismatch:
            raise BaseMismatchError(
                f"{folder} was made for a base of {field} {wanted}, and '{base.name}' has {actual}. Load that base"
                f" ({content.get('model_name')}), or pass --allow-base-mismatch to use this one anyway"
            )
