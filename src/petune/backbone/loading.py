"""Loading a base model's weights, tokenizer and configuration from wherever they are, quietly."""

import logging
import warnings
from collections.abc import Iterator, Sequence
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
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from petune.backbone.digests import weight_files
from petune.backbone.heads import auto_class, choose_task, saved_task, set_labels
from petune.backbone.quantization import quantize
from petune.backbone.quantization_names import Quantization
from petune.backbone.refusals import explained
from petune.backbone.sources import Source
from petune.backbone.structure import Structure
from petune.backbone.task_names import NAMED_CLASSES, TaskName
from petune.errors import ArtifactError, BaseModelError, ConfigError


@dataclass(frozen=True)
class Loaded:
    """A model as it came from its files.

    Attributes:
        model: the model with the head of its task, on its device.
        tokenizer: its tokenizer, a padding token always set.
        task: what it was loaded for.
        random: names of the parameters that its weight files lack: those of a head that starts at random.
        weight_files: the files its weights came from (the GGUF file itself, where there is one).
        revision: the commit it was loaded from, where it came from the hub.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: TaskName
    random: tuple[str, ...]
    weight_files: tuple[Path, ...]
    revision: str | None


def load(
    source: Source,
    *,
    task: TaskName | None = None,
    labels: Sequence[str] = (),
    seed: int = 42,
    dtype: torch.dtype,
    device: torch.device,
    trust_remote_code: bool,
    quantization: Quantization | None = None,
) -> Loaded:
    """Load a model for a task, and its tokenizer.

    Args:
        source: where it is.
        task: what for; None for what its weights were saved for.
        labels: names of the classes of its head; empty for those its configuration names.
        seed: source of a random head.
        dtype: precision of its parameters.
        device: where they go.
        trust_remote_code: run code that comes with it.
        quantization: which blocks its weights are kept as; None for none.

    Raises:
        BaseModelError: it cannot be had, or cannot be loaded for the task.
        ConfigError: the task has named classes, and nobody names them.
        ArtifactError: its files are damaged or incomplete.
        ResourceError: not enough memory.
    """
    with explained(source.name, hub=source.folder is None, revision=source.revision), quiet():
        config, chosen = load_config(source, task=task, labels=labels, trust_remote_code=trust_remote_code)
        # the commit the configuration came from, so that all files are of one version
        snapshot = None if source.folder else _snapshot(source)
        commit = snapshot.name if snapshot else None
        tokenizer = tokenizer_of(source, revision=commit, trust_remote_code=trust_remote_code)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model, report = auto_class(chosen).from_pretrained(
                source.location,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=bool(labels),  # a trained head for other classes gives way to a random one
                revision=commit or "main",
                trust_remote_code=trust_remote_code,
            )
        random = _random_head(source, model, chosen, report)
        if quantization is not None:
            quantize(model, quantization, source, random=random)
        return Loaded(model.to(device), tokenizer, chosen, random, _files(source, snapshot), commit)


def read_config(source: Source, *, trust_remote_code: bool = False) -> PreTrainedConfig:
    """Load a model's configuration as it is in its files."""
    return AutoConfig.from_pretrained(
        source.location, revision=source.revision or "main", trust_remote_code=trust_remote_code
    )


def load_config(
    source: Source, *, task: TaskName | None = None, labels: Sequence[str] = (), trust_remote_code: bool = False
) -> tuple[PreTrainedConfig, TaskName]:
    """Load a model's configuration for a task, and say which task that is.

    Raises:
        BaseModelError: the model cannot be loaded for the task.
        ConfigError: the task has named classes, and neither ``labels`` nor the configuration names them.
    """
    config = read_config(source, trust_remote_code=trust_remote_code)
    chosen = choose_task(config, task, source.name)
    if labels and chosen in NAMED_CLASSES:
        set_labels(config, labels)
    elif labels:
        raise ConfigError(f"the task {chosen} has no classes, and {len(labels)} labels were given; leave them out")
    elif chosen in NAMED_CLASSES and saved_task(config.architectures or (), config) != chosen:
        raise ConfigError(
            f"{source.name} comes without a head for {chosen}, so its classes have to be named:"
            f' load_base(..., task="{chosen}", labels=["first", "second"])'
        )
    return config, chosen


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


def _random_head(source: Source, model: PreTrainedModel, task: TaskName, report: dict[str, Any]) -> tuple[str, ...]:
    """Return the parameters that the weight files lack, where a task's head may start at random.

    Raises:
        ArtifactError: the files lack something of the pretrained model itself.
    """
    missing = sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])})
    pretrained = missing
    if model.get_output_embeddings() is None:
        blocks = Structure(model).blocks
        pretrained = [
            name
            for name in missing
            if any(name.startswith(f"{block}.") for block in blocks)
            or isinstance(model.get_submodule(name.rpartition(".")[0]), torch.nn.Embedding)
        ]
    if pretrained:
        raise ArtifactError(
            f"the weights of {source.name} lack {len(pretrained)} of its tensors, such as {pretrained[0]}; without them"
            f" the model cannot be used for {task}: fetch it again, or use one that was saved with them"
        )
    return tuple(missing)


def _snapshot(source: Source) -> Path | None:
    """The folder of the hub's cache, named after its commit, that a configuration was just loaded from."""
    cached = huggingface_hub.try_to_load_from_cache(source.location, "config.json", revision=source.revision)
    return Path(cached).parent if isinstance(cached, str) else None


def _files(source: Source, snapshot: Path | None) -> tuple[Path, ...]:
    if source.gguf is not None:
        return (source.gguf,)
    folder = source.folder or snapshot
    return weight_files(folder) if folder else ()
