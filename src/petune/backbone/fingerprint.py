"""Which base model this is exactly: digests of settings, weights and tokenizer, and readable facts."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from petune.backbone.digests import weights_digest
from petune.errors import ArtifactError

UNVERIFIED = "unverified"
"""What cannot be told: the weights of a model that was handed over in memory, or its tokenizer if it came without."""

_NOT_STRUCTURAL = {
    "architectures",
    "auto_map",
    "dtype",
    "id2label",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "quantization_config",
    "return_dict",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}


@dataclass(frozen=True)
class Fingerprint:
    """What tells one base model from another.

    Attributes:
        architecture: SHA-256 of the configuration's structural settings.
        weights: ``sha256:<hex>`` over the weight files, or ``unverified``.
        tokenizer: SHA-256 of the vocabulary and the added tokens, or ``unverified``.
        model_type: the architecture's name in transformers.
        num_layers: transformer layers the model runs.
        hidden_size: width of the residual stream.
        vocab_size: rows of the embeddings.
        parameters: parameters in all, shared ones once; those of a task's head are not counted.
    """

    architecture: str
    weights: str
    tokenizer: str
    model_type: str
    num_layers: int
    hidden_size: int
    vocab_size: int
    parameters: int

    def to_dict(self) -> dict[str, str | int]:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Fingerprint":
        """Read what :meth:`to_dict` wrote.

        Raises:
            ArtifactError: a field is missing, unknown or of the wrong type.
        """
        types = {field.name: field.type for field in fields(cls)}
        wrong = [name for name in types if type(content.get(name)) is not types[name]]
        if wrong or set(content) != set(types):
            odd = ", ".join(sorted({*wrong, *(set(content) ^ set(types))}))
            raise ArtifactError(f"the base model's fingerprint is malformed: missing, unknown or mistyped {odd}")
        return cls(**content)


def fingerprint(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    weight_files: Iterable[Path],
    *,
    head: Iterable[str] = (),
) -> Fingerprint:
    """Take the fingerprint of a loaded model; without weight files or a tokenizer, these are unverified.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        weight_files: the files its weights came from.
        head: paths of the modules that make up a task's head, which is no part of the base.
    """
    files = tuple(weight_files)
    text = model.config.get_text_config()
    return Fingerprint(
        architecture=_digest(structural(model.config)),
        weights=weights_digest(files) if files else UNVERIFIED,
        tokenizer=UNVERIFIED if tokenizer is None else tokenizer_digest(tokenizer),
        model_type=str(model.config.model_type),
        num_layers=int(text.num_hidden_layers),
        hidden_size=int(text.hidden_size),
        vocab_size=int(text.vocab_size),
        parameters=parameter_count(model) - sum(parameter_count(model.get_submodule(path)) for path in head),
    )


def compare(expected: Fingerprint, actual: Fingerprint) -> list[str]:
    """What differs, in plain words; empty where nothing does. What is unverified counts as equal to any."""
    differences = [
        f"{label}: {getattr(expected, name):,} expected, {getattr(actual, name):,} found"
        for name, label in (
            ("num_layers", "layers"),
            ("hidden_size", "hidden size"),
            ("vocab_size", "vocabulary size"),
            ("parameters", "parameters"),
        )
        if getattr(expected, name) != getattr(actual, name)
    ]
    if expected.model_type != actual.model_type:
        differences.insert(0, f"model type: {expected.model_type} expected, {actual.model_type} found")
    if not differences and expected.architecture != actual.architecture:
        differences.append("the configuration differs in settings other than its sizes")
    for name in ("weights", "tokenizer"):
        wanted, found = getattr(expected, name), getattr(actual, name)
        if wanted != found and UNVERIFIED not in (wanted, found):
            differences.append(
                f"{name} differ{'s' * (name == 'tokenizer')}: expected {wanted[:15]}.., got {found[:15]}.."
            )
    return differences


def parameter_count(model: nn.Module) -> int:
    """Parameters of a model, tied and shared ones counted once; works on the meta device."""
    return sum(parameter.numel() for parameter in model.parameters())


def structural(config: PreTrainedConfig) -> dict[str, Any]:
    """The settings that shape what a model computes.

    Settings that are off or empty are left out, as a release of transformers adds such settings without
    changing any model.
    """
    return _without_volatile(config.to_dict())


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of the vocabulary and the added tokens."""
    added = sorted((index, token.content) for index, token in tokenizer.added_tokens_decoder.items())
    return _digest([sorted(tokenizer.get_vocab().items()), added])


def _without_volatile(settings: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in settings.items():
        if key in _NOT_STRUCTURAL or key.startswith("_") or key.endswith("_token_id"):
            continue
        inner = _without_volatile(value) if isinstance(value, Mapping) and _named(value) else value
        if inner not in (None, False, {}, []):
            kept[key] = inner
    return kept


def _named(value: Mapping[Any, Any]) -> bool:
    return all(isinstance(key, str) for key in value)


def _digest(content: object) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
