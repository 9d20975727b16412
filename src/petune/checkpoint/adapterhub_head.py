"""Prediction heads beside adapters in the folders of AdapterHub's library.

The library has heads of its own ("flexible": linears and activations in a row, named by number) and takes the heads of
transformers' classes. Ours are those of transformers' classes, so a flexible one is taken where a class computes the
same. A head of language modelling is the base's own: it is compared, and left out.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from petune.adapter import Adapter
from petune.backbone.base import Base
from petune.backbone.heads import task_of_class
from petune.backbone.task_names import NAMED_CLASSES, TaskName
from petune.checkpoint.manifest import read_json
from petune.checkpoint.tensor_files import read_tensors
from petune.errors import AdapterFormatError, BaseMismatchError

HEAD_CONFIG_FILE = "head_config.json"
HEAD_WEIGHTS_FILE = "model_head.safetensors"
HEAD_PICKLE = "pytorch_model_head.bin"

_TASKS: Mapping[str, TaskName] = {
    "classification": "sequence_classification",
    "tagging": "token_classification",
    "question_answering": "question_answering",
}
"""Our tasks by the library's type of a flexible head."""

_DESCRIPTIVE = (
    "config",
    "hidden_size",
    "label2id",
    "model_class",
    "model_name",
    "model_type",
    "name",
    "num_labels",
    "version",
)
_FIELDS = ("activation_function", "bias", "dropout_prob", "head_type", "label2id", "layers", "num_labels", "use_pooler")

_ANY = None
_SEQUENCE_HEADS: Mapping[tuple[str, int, str | None, bool], tuple[str, ...]] = {
    ("bert", 1, _ANY, True): ("classifier",),
    # Its pooler is such a linear with a tanh, on the same token.
    ("bert", 2, "tanh", False): ("bert.pooler.dense", "classifier"),
    ("distilbert", 2, "relu", False): ("pre_classifier", "classifier"),
    ("roberta", 2, "tanh", False): ("classifier.dense", "classifier.out_proj"),
    ("xlm-roberta", 2, "tanh", False): ("classifier.dense", "classifier.out_proj"),
}
"""The linears of a class that computes what a flexible head does, by model type, linears, activation between them, and
whether the base's pooler comes first."""


@final
@dataclass(frozen=True, slots=True)
class HubHead:
    """A head.

    Attributes:
        task: our task.
        labels: names of its classes.
        tensors: by the paths of parameters in the class of transformers for that task.
    """

    task: TaskName
    labels: tuple[str, ...]
    tensors: Mapping[str, Tensor]

    def options(self, base: Base, folder: Path) -> dict[str, Any]:
        """Return the settings that make an adapter on ``base`` hold the head.

        Raises:
            BaseMismatchError: the base was loaded for another task or other classes.
            AdapterFormatError: a head of language modelling is not the base's own.
        """
        if (self.task, self.labels) != (base.task, base.labels):
            wanted, found = (
                f"{task} ({', '.join(labels)})" if labels else task
                for task, labels in ((self.task, self.labels), (base.task, base.labels))
            )
            raise BaseMismatchError(
                f"{folder} holds a head for {wanted}, and the base was loaded for {found}; load it for that, or save"
                " the adapter without its head (with_head=False)"
            )
        if not base.structure.head:
            self._compare(base)
            return {}
        outside = {name.rpartition(".")[0] for name in self.tensors}
        outside = {path for path in outside if not _inside(path, base.structure.head)}
        return {"modules_to_save": tuple(sorted(outside))} if outside else {}

    def to_own(self, adapter: Adapter) -> dict[str, Tensor]:
        """Return the tensors of the copies in ``adapter`` that hold the head."""
        ours: dict[str, Tensor] = {}
        for name, tensor in self.tensors.items():
            copied = next((path for path in adapter.replacements if _inside(name, (path,))), None)
            if copied is not None:
                ours[f"{copied}.own.{name.removeprefix(f'{copied}.')}"] = tensor
        return ours

    def _compare(self, base: Base) -> None:
        own = base.model.state_dict()
        for name, tensor in self.tensors.items():
            if (
                name not in own
                or own[name].shape != tensor.shape
                or not torch.equal(own[name].cpu().float(), tensor.float())
            ):
                raise AdapterFormatError(
                    f"{HEAD_WEIGHTS_FILE}: '{name}' is not the base's own, and petune takes no other head of language"
                    " modelling; load the base it belongs to, or save the adapter without its head (with_head=False)"
                )


def read_head(folder: Path) -> HubHead | None:
    """Return the head in ``folder``; None where there is none.

    Raises:
        AdapterFormatError: it is malformed, or of a kind that petune lacks.
    """
    if not any((folder / name).exists() for name in (HEAD_CONFIG_FILE, HEAD_WEIGHTS_FILE, HEAD_PICKLE)):
        return None
    if not (folder / HEAD_WEIGHTS_FILE).exists() and (folder / HEAD_PICKLE).exists():
        raise AdapterFormatError(f"{folder} {conversion(HEAD_PICKLE, HEAD_WEIGHTS_FILE)}")
    content = read_json(folder / HEAD_CONFIG_FILE)
    _refuse_unknown(content, _DESCRIPTIVE, "")
    tensors = read_tensors(folder / HEAD_WEIGHTS_FILE)
    if content.get("config") is None:
        return _static(content, tensors)
    return _flexible(content, tensors)


def conversion(pickle: str, wanted: str) -> str:
    """Return what to do about a file that is a pickle."""
    kept = "{k: v.clone() for k, v in t.items() if '.pool.' not in k}"
    return (
        f"holds {pickle}, a pickle, which can run code and is never read here; convert it once in a trusted"
        f" environment: t = torch.load('{pickle}', weights_only=True); safetensors.torch.save_file({kept}, '{wanted}')"
    )


def _static(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> HubHead:
    """Return the head of one of transformers' classes."""
    task = task_of_class(str(content.get("model_type")), str(content.get("model_class")))
    if task is None:
        raise AdapterFormatError(
            f"{HEAD_CONFIG_FILE}: model_class is {content.get('model_class')!r}, whose head petune does not have; save"
            " the adapter without its head (with_head=False)"
        )
    labels = _labels(content.get("label2id"), content.get("num_labels")) if task in NAMED_CLASSES else ()
    return HubHead(task, labels, dict(tensors))


def _flexible(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> HubHead:
    """Return a head of the library's own, as the head of the class that computes the same."""
    config = content["config"]
    if not isinstance(config, dict):
        raise AdapterFormatError(f"{HEAD_CONFIG_FILE}: 'config' is {config!r}, expected the head's settings")
    _refuse_unknown(config, _FIELDS, "config.")
    kind = config.get("head_type")
    task = _TASKS.get(kind) if isinstance(kind, str) else None
    if task is None:
        raise AdapterFormatError(
            f"{HEAD_CONFIG_FILE}: config.head_type is {kind!r}; petune takes {', '.join(_TASKS)}. Save the adapter"
            " without its head (with_head=False)"
        )
    numbered = _numbered(tensors, content.get("name"))
    linears = _linears(content, config, task)
    if linears is None or len(linears) != len(numbered):
        shape = {field: config.get(field) for field in ("layers", "activation_function", "use_pooler", "bias")}
        raise AdapterFormatError(
            f"{HEAD_CONFIG_FILE}: a head of {kind} with {', '.join(f'{k}={v}' for k, v in shape.items())} is not what"
            f" transformers computes for a {content.get('model_type')}; petune takes the shapes of transformers' own"
            " heads. Save the adapter without its head (with_head=False)"
        )
    renamed = {
        f"{linear}.{name}": tensor
        for linear, parts in zip(linears, numbered, strict=True)
        for name, tensor in parts.items()
    }
    labels = _labels(config.get("label2id"), config.get("num_labels")) if task in NAMED_CLASSES else ()
    return HubHead(task, labels, renamed)


def _linears(content: Mapping[str, Any], config: Mapping[str, Any], task: TaskName) -> tuple[str, ...] | None:
    """Return the paths of the linears that a flexible head's stand for; None where no class computes the same."""
    layers, activation = config.get("layers"), config.get("activation_function")
    if config.get("bias", True) is not True or not isinstance(layers, int):
        return None
    if task != "sequence_classification":
        only = "qa_outputs" if task == "question_answering" else "classifier"
        return (only,) if layers == 1 else None
    between = _ANY if layers == 1 else str(activation)
    return _SEQUENCE_HEADS.get((str(content.get("model_type")), layers, between, bool(config.get("use_pooler"))))


def _numbered(tensors: Mapping[str, Tensor], name: Any) -> list[dict[str, Tensor]]:
    """Return the weight and bias of each linear, in the order in which they are run."""
    found: dict[int, dict[str, Tensor]] = {}
    for full, tensor in tensors.items():
        match = re.fullmatch(rf"heads\.{re.escape(str(name))}\.(\d{{1,3}})\.(weight|bias)", full)
        if match is None:
            raise AdapterFormatError(f"{HEAD_WEIGHTS_FILE}: tensor '{full}' is none that a head of linears has")
        found.setdefault(int(match[1]), {})[match[2]] = tensor
    return [found[number] for number in sorted(found)]


def _labels(ids: Any, count: Any) -> tuple[str, ...]:
    """Return the names of the classes in the order of the head's outputs."""
    if isinstance(count, bool) or not isinstance(count, int) or not 2 <= count <= 1_000_000:
        raise AdapterFormatError(
            f"{HEAD_CONFIG_FILE}: num_labels is {count!r}; a head that petune has tells two classes or more apart"
        )
    if ids is None:
        return tuple(f"LABEL_{number}" for number in range(count))
    if not isinstance(ids, dict) or sorted(map(str, ids.values())) != sorted(map(str, range(count))):
        raise AdapterFormatError(
            f"{HEAD_CONFIG_FILE}: label2id is {str(ids)[:80]}, expected the numbers of {count} classes"
        )
    return tuple(sorted(ids, key=lambda label: int(ids[label])))


def _refuse_unknown(content: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    unknown = next((field for field in content if field not in known), None)
    if unknown is not None:
        raise AdapterFormatError(f"{HEAD_CONFIG_FILE}: '{where}{unknown}' is not known to this petune")


def _inside(path: str, outer: tuple[str, ...]) -> bool:
    return any(f"{path}.".startswith(f"{other}.") for other in outer)
