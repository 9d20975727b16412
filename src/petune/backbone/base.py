"""A frozen pretrained model with everything petune must know of it."""

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import final

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from petune.backbone.fingerprint import Fingerprint, fingerprint
from petune.backbone.further_heads import FurtherHead, HeadSpec, add_heads
from petune.backbone.heads import auto_class, class_labels, task_of
from petune.backbone.loading import load, load_config, quiet, read_config, set_pad_token
from petune.backbone.precision import pick_device, pick_dtype
from petune.backbone.quantization import check_quantization
from petune.backbone.quantization_names import Quantization
from petune.backbone.refusals import explained
from petune.backbone.sources import resolve
from petune.backbone.structure import Structure
from petune.backbone.task_names import TaskName
from petune.backbone.vocabulary import extend, read_tokens
from petune.errors import BaseModelError


@final
class Base:
    """A frozen pretrained model with the head of a task, its tokenizer, and what identifies it.

    Made by :func:`load_base`, or from a model in memory by :meth:`from_model`. Construction puts the model
    into evaluation mode, freezes every parameter, and sets a missing padding token to the end-of-text token.

    Args:
        model: the pretrained model.
        tokenizer: its tokenizer; None where nobody will ask for text.
        name: what adapters record as their base: a hub id, an absolute path, or ``demo``.
        revision: the hub commit it was loaded from.
        weight_files: the files its weights came from; none means they cannot be verified.
        random: names of the parameters that those files lack: a head that starts at random.
        heads: the heads that the model has been given beside its own, by name.
        quantization: which blocks its weights are kept as; None for none.

    Attributes:
        task: what the model's head is for.
        labels: names of the classes that the head tells apart; empty where it has none.
        heads: the heads that the model has beside its own, by name.
        quantization: which blocks the weights are kept as.

    Raises:
        BaseModelError: the model has no head of a known task, or its tokenizer cannot pad.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None,
        *,
        name: str,
        revision: str | None = None,
        weight_files: Iterable[Path] = (),
        random: Iterable[str] = (),
        heads: Mapping[str, FurtherHead] | None = None,
        quantization: Quantization | None = None,
    ) -> None:
        self.quantization = quantization
        self.heads = dict(heads or {})
        self.task = task_of(model)
        self.labels = class_labels(model.config, self.task)
        self._random = tuple(random)
        self.structure = Structure(model, self._random)
        if tokenizer is not None:
            set_pad_token(tokenizer, name)
            for config in (model.config, *(head.model.config for head in self.heads.values())):
                if self.structure.head and config.pad_token_id is None:
                    config.pad_token_id = tokenizer.pad_token_id  # by which decoders find a row's last token
        self.model = model.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self.name = name
        self.revision = revision
        self._weight_files = tuple(weight_files)
        self.new_tokens: tuple[str, ...] = ()
        """Tokens that were added to the tokenizer."""

    @classmethod
    def from_model(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        name: str = "",
        revision: str | None = None,
    ) -> "Base":
        """Wrap a model that is in memory; its weights stay unverified.

        Args:
            model: the pretrained model; it is frozen in place.
            tokenizer: its tokenizer; without one, whatever reads or writes text is an error.
            name: what to record as the base; by default what the model itself says it was loaded from.
            revision: the hub commit it was loaded from.

        Raises:
            BaseModelError: the model has no head of a known task, or its tokenizer cannot pad.
        """
        return cls(model, tokenizer, name=name or str(model.config.name_or_path), revision=revision)

    @property
    def has_tokenizer(self) -> bool:
        """Whether there is a tokenizer: a model that was in memory may have come without."""
        return self._tokenizer is not None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, a padding token always set.

        Raises:
            BaseModelError: the model was wrapped without one.
        """
        if self._tokenizer is None:
            raise BaseModelError(
                f"{self.name or 'the base model'} was wrapped without a tokenizer, and this needs one to read or write"
                " text; wrap the model with it: Base.from_model(model, tokenizer)"
            )
        return self._tokenizer

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """Which model this is exactly; the first use reads the weight files once."""
        return fingerprint(self.model, self._tokenizer, self._weight_files, head=self.structure.head)

    def labels_of(self, head: str) -> tuple[str, ...]:
        """Return the classes of the head called ``head``, or of the base's own head where there is no such."""
        return self.heads[head].spec.labels if head in self.heads else self.labels

    def add_tokens(self, tokens: str | Sequence[str]) -> tuple[int, ...]:
        """Add tokens to the tokenizer and rows for them to the model, and return their ids; old rows stay as they are.

        Tokens that were added before are not added again. What identifies the base stays what it was without them.

        Args:
            tokens: the tokens, or a text file with one a line.

        Raises:
            ConfigError: the tokenizer came with one of them, or adapters are plugged into the tables.
            BaseModelError: the model has tables that cannot grow.
        """
        wanted = read_tokens(tokens)
        missing = [token for token in wanted if token not in self.new_tokens]
        if missing:
            _ = self.fingerprint  # taken before anything changes
            extend(self.model, self.tokenizer, missing)
            self.new_tokens = (*self.new_tokens, *missing)
            self.structure = Structure(self.model, self._random)
        ids = self.tokenizer.convert_tokens_to_ids(list(wanted))
        assert isinstance(ids, list)
        return tuple(ids)

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the parameters."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        device: torch.device = self.model.device
        return device


def load_base(
    model: str | os.PathLike[str],
    *,
    task: TaskName | None = None,
    labels: Sequence[str] = (),
    seed: int = 42,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    heads: Sequence[HeadSpec] = (),
    quantization: Quantization | None = None,
) -> Base:
    """Load a base model.

    Args:
        model: a Hugging Face id, a local folder with safetensors, a GGUF file, or ``demo``.
        task: what it is to do: ``causal_lm``, ``seq2seq_lm``, ``masked_lm``, ``sequence_classification``,
            ``token_classification`` or ``question_answering``; by default what its weights were saved for.
        labels: names of the classes of a classification, in the order of the head's outputs; needed where the
            weights come without a head for it.
        seed: source of a head that the weights come without.
        dtype: ``auto`` (bfloat16 where the device computes it fast, float32 elsewhere), ``float32``,
            ``bfloat16`` or ``float16``.
        device: ``auto`` (CUDA where there is some), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        revision: branch, tag or commit of a Hugging Face id.
        trust_remote_code: run code that comes with the model.
        heads: heads to give it beside that of its task; they start at random.
        quantization: keep the weights as blocks, unpacked where they are used: ``gguf`` (those of a GGUF file, which
            mean the same numbers), ``8bit`` or ``4bit`` (rounded to them); None to keep them plain.

    Raises:
        BaseModelError: the model cannot be had, or cannot be loaded for the task.
        ArtifactError: its files are damaged.
        ResourceError: memory or disk space is short.
        ConfigError: an unknown task, dtype, device or quantization; a head without labels; or a head that needs
            another body.
    """
    where = pick_device(device)
    precision = pick_dtype(dtype, where)
    with quiet():
        source = resolve(model, revision=revision)
    check_quantization(quantization, source)
    loaded = load(
        source,
        task=task,
        labels=tuple(labels),
        seed=seed,
        dtype=precision,
        device=where,
        trust_remote_code=trust_remote_code,
        quantization=quantization,
    )
    return Base(
        loaded.model,
        loaded.tokenizer,
        name=source.name,
        revision=loaded.revision,
        weight_files=loaded.weight_files,
        random=loaded.random,
        heads=add_heads(loaded.model, heads, seed=seed, random=loaded.random),
        quantization=quantization,
    )


def load_base_config(
    model: str | os.PathLike[str], *, revision: str | None = None, trust_remote_code: bool = False
) -> tuple[PreTrainedConfig, str]:
    """Return the configuration of a base model and what the model is called.

    Raises:
        BaseModelError: it cannot be had.
    """
    with quiet():
        source = resolve(model, revision=revision)
        with explained(source.name, hub=source.folder is None, revision=source.revision):
            return read_config(source, trust_remote_code=trust_remote_code), source.name


def meta_model(
    model: str | os.PathLike[str],
    *,
    task: TaskName | None = None,
    labels: Sequence[str] = (),
    revision: str | None = None,
    trust_remote_code: bool = False,
    heads: Sequence[HeadSpec] = (),
) -> PreTrainedModel:
    """Build a base model on the meta device, from its configuration only: sizes and names, no weights.

    Raises:
        BaseModelError: the configuration cannot be had, or the model cannot be loaded for the task.
        ConfigError: a further head needs another body.
    """
    with quiet():
        source = resolve(model, revision=revision)
        with explained(source.name, hub=source.folder is None, revision=source.revision):
            config, chosen = load_config(source, task=task, labels=labels, trust_remote_code=trust_remote_code)
            with torch.device("meta"):
                built: PreTrainedModel = auto_class(chosen).from_config(config, trust_remote_code=trust_remote_code)
            add_heads(built, heads)
            return built
