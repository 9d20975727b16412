"""Loading a base model's weights, tokenizer and configuration from wherever they are, quietly."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from huggingface_hub.utils import logging as hub_logging
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from petune.backbone.digests import weight_files
from petune.backbone.refusals import explained
from petune.backbone.sources import Source
from petune.backbone.structure import kind_of
from petune.errors import ArtifactError, BaseModelError


@dataclass(frozen=True)
class Loaded:
    """A model as it came from its files.

    Attributes:
        model: the causal language model, on its device.
        tokenizer: its tokenizer, a padding token always set.
        weight_files: the files its weights came from (the GGUF file itself, where there is one).
        revision: the commit it was loaded from, where it came from the hub.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    weight_files: tuple[Path, ...]
    revision: str | None


def load(source: Source, *, dtype: torch.dtype, device: torch.device, trust_remote_code: bool) -> Loaded:
    """Load a causal language model and its tokenizer.

    Raises:
        BaseModelError: it cannot be had, or is no causal language model.
        ArtifactError: its files are damaged or incomplete.
        ResourceError: not enough memory.
    """
    with explained(source.name, hub=source.folder is None, revision=source.revision), quiet():
        config = load_config(source, trust_remote_code=trust_remote_code)
        # the commit the configuration came from, so that all files are of one version
        snapshot = None if source.folder else _snapshot(source)
        commit = snapshot.name if snapshot else None
        tokenizer = tokenizer_of(source, revision=commit, trust_remote_code=trust_remote_code)
        model, report = AutoModelForCausalLM.from_pretrained(
            source.location,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            revision=commit or "main",
            trust_remote_code=trust_remote_code,
        )
        _check_complete(source, report)
        return Loaded(model.to(device), tokenizer, _files(source, snapshot), commit)


def load_config(source: Source, *, trust_remote_code: bool = False) -> PreTrainedConfig:
    """Load a model's configuration and check that it is a causal language model's.

    Raises:
        BaseModelError: it is an encoder or an encoder-decoder.
    """
    config = AutoConfig.from_pretrained(
        source.location, revision=source.revision or "main", trust_remote_code=trust_remote_code
    )
    kind = kind_of(config)
    if kind != "decoder":
        raise BaseModelError(
            f"{source.name} is an {kind} ({config.model_type}); petune trains decoders (causal language "
            "models), such as demo"
        )
    return config


def tokenizer_of(source: Source, *, revision: str | None, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer and see that it can pad.

    Raises:
        BaseModelError: it cannot be had, or cannot pad.
    """
    with explained(f"the tokenizer of {source.name}"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            source.location, revision=revision or "main", trust_remote_code=trust_remote_code
        )
    set_pad_token(tokenizer, source.name)
    return tokenizer


def set_pad_token(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Let the end-of-text token pad where the tokenizer has no padding token.

    Raises:
        BaseModelError: it has neither.
    """
    if tokenizer.pad_token_id is not None:
        return
    if tokenizer.eos_token_id is None:
        raise BaseModelError(f"the tokenizer of {name} has neither a padding nor an end-of-text token; set one in it")
    tokenizer.pad_token = tokenizer.eos_token


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings, log and progress bars of transformers and the hub, and restore them after."""
    verbosity, hub_verbosity = transformers_logging.get_verbosity(), hub_logging.get_verbosity()
    bars, hub_bars = transformers_logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    transformers_logging.set_verbosity_error()
    hub_logging.set_verbosity(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers_logging.disable_progress_bar()
        disable_progress_bars()
        try:
            yield
        finally:
            transformers_logging.set_verbosity(verbosity)
            hub_logging.set_verbosity(hub_verbosity)
            if bars:
                transformers_logging.enable_progress_bar()
            if hub_bars:
                enable_progress_bars()
            else:
                disable_progress_bars()


def _check_complete(source: Source, report: dict[str, Any]) -> None:
    missing = sorted(report["missing_keys"])
    if missing:
        raise ArtifactError(
            f"the weights of {source.name} lack {len(missing)} of its tensors, such as {missing[0]}; "
            "without them the model is no causal language model: fetch it again, or use one that was saved as such"
        )


def _snapshot(source: Source) -> Path | None:
    """The folder of the hub's cache, named after its commit, that a configuration was just loaded from."""
    cached = huggingface_hub.try_to_load_from_cache(source.location, "config.json", revision=source.revision)
    return Path(cached).parent if isinstance(cached, str) else None


def _files(source: Source, snapshot: Path | None) -> tuple[Path, ...]:
    if source.gguf is not None:
        return (source.gguf,)
    folder = source.folder or snapshot
    return weight_files(folder) if folder else ()
