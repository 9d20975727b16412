"""A frozen pretrained model with everything petune must know of it."""

import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import final

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from petune.backbone.fingerprint import Fingerprint, fingerprint
from petune.backbone.loading import load, load_config, quiet, set_pad_token
from petune.backbone.precision import pick_device, pick_dtype
from petune.backbone.refusals import explained
from petune.backbone.sources import resolve
from petune.backbone.structure import Structure
from petune.errors import BaseModelError


@final
class Base:
    """A frozen pretrained causal language model, its tokenizer, and what identifies it.

    Made by :func:`load_base`, or from a model in memory by :meth:`from_model`. Construction puts the model
    into evaluation mode, freezes every parameter, and sets a missing padding token to the end-of-text token.

    Args:
        model: the pretrained model.
        tokenizer: its tokenizer; None where nobody will ask for text.
        name: what adapters record as their base: a hub id, an absolute path, or ``demo``.
        revision: the hub commit it was loaded from.
        weight_files: the files its weights came from; none means they cannot be verified.

    Raises:
        BaseModelError: the model is no causal language model, or its tokenizer cannot pad.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None,
        *,
        name: str,
        revision: str | None = None,
        weight_files: Iterable[Path] = (),
    ) -> None:
        self.structure = Structure(model)
        if not self.structure.is_decoder_lm or model.get_output_embeddings() is None:
            raise BaseModelError(
                f"{name} is a {type(model).__name__}, of kind {self.structure.kind}; petune trains decoders with a "
                "language-model head (load it with AutoModelForCausalLM)"
            )
        if tokenizer is not None:
            set_pad_token(tokenizer, name)
        self.model = model.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self.name = name
        self.revision = revision
        self._weight_files = tuple(weight_files)

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
            BaseModelError: the model is no causal language model, or its tokenizer cannot pad.
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
        return fingerprint(self.model, self._tokenizer, self._weight_files)

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
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Base:
    """Load a base model.

    Args:
        model: a Hugging Face id, a local folder with safetensors, a GGUF file, or ``demo``.
        dtype: ``auto`` (bfloat16 where the device computes it fast, float32 elsewhere), ``float32``,
            ``bfloat16`` or ``float16``.
        device: ``auto`` (CUDA where there is some), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        revision: branch, tag or commit of a Hugging Face id.
        trust_remote_code: run code that comes with the model.

    Raises:
        BaseModelError: the model cannot be had, or is no causal language model.
        ArtifactError: its files are damaged.
        ResourceError: memory or disk space is short.
        ConfigError: an unknown dtype or device.
    """
    where = pick_device(device)
    precision = pick_dtype(dtype, where)
    with quiet():
        source = resolve(model, revision=revision)
    loaded = load(source, dtype=precision, device=where, trust_remote_code=trust_remote_code)
    return Base(
        loaded.model,
        loaded.tokenizer,
        name=source.name,
        revision=loaded.revision,
        weight_files=loaded.weight_files,
    )


def meta_model(
    model: str | os.PathLike[str], *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedModel:
    """Build a base model on the meta device, from its configuration only: sizes and names, no weights.

    Raises:
        BaseModelError: the configuration cannot be had, or is no causal language model's.
    """
    with quiet():
        source = resolve(model, revision=revision)
        with explained(source.name, hub=source.folder is None, revision=source.revision):
            config = load_config(source, trust_remote_code=trust_remote_code)
            with torch.device("meta"):
                return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
