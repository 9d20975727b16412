"""Starts that several methods share: what virtual tokens begin as.

Shapes: P virtual tokens, d hidden width, V vocabulary, m width of a layer, n width of its output.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from petune.errors import ConfigError
from petune.methods.method import Target
from petune.sites.embeddings import token_embeddings, vocabulary_size

COMMON_TOKENS = 5000
"""How many of the lowest token ids, the most common ones, are drawn from (as Lester et al. do)."""


def start_ids(target: Target, length: int, text: str | None, *, setting: str) -> Tensor:
    """Return ``length`` token ids: those of ``text``, repeated to the length, or sampled common ones.

    Args:
        target: the base, with its tokenizer where a text is given.
        length: virtual tokens.
        text: what to start from; None to sample.
        setting: name of the setting that gives the text, for errors.

    Raises:
        ConfigError: the text has no token, or more than ``length``, or there is no tokenizer to read it.
    """
    if text is None:
        common = len(common_ids(target))
        return torch.randperm(common, generator=target.generator).repeat(-(-length // common))[:length]
    ids = _tokenizer(target, setting)(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise ConfigError(f"{setting} is empty; give a text of at least one token")
    if len(ids) > length:
        raise ConfigError(
            f"{setting} has {len(ids)} tokens, num_virtual_tokens is {length}: a start may not be longer than what it"
            f" starts. Shorten the text, or set num_virtual_tokens={len(ids)}"
        )
    return torch.tensor((ids * (-(-length // len(ids))))[:length])


def common_ids(target: Target) -> Tensor:
    """Return the lowest token ids, at most ``COMMON_TOKENS``."""
    return torch.arange(min(COMMON_TOKENS, vocabulary_size(target.model)))


def label_embeddings(target: Target, length: int, labels: tuple[str, ...], *, setting: str) -> Tensor:
    """Return a start [P, d]: for each label the mean embedding of its tokens, then sampled common tokens.

    Raises:
        ConfigError: a label has no token, or there are more labels than ``length``.
    """
    start = token_embeddings(target.model, start_ids(target, length, None, setting=setting)).float()
    tokenizer = _tokenizer(target, setting)
    if len(labels) > length:
        raise ConfigError(
            f"{setting} names {len(labels)} labels, num_virtual_tokens is {length}: each label starts one of them."
            f" Name fewer, or set num_virtual_tokens={len(labels)}"
        )
    for i, label in enumerate(labels):
        ids = tokenizer(label, add_special_tokens=False)["input_ids"]
        if not ids:
            raise ConfigError(f"{setting} has a label without a token: {label!r}; leave it out")
        start[i] = token_embeddings(target.model, torch.tensor(ids)).float().mean(0)
    return start


def read_matrix(path: str, shape: tuple[int, int], *, setting: str) -> Tensor:
    """Return the matrix that a ``.safetensors`` or ``.npy`` file holds, in fp32.

    Args:
        path: the file; one of safetensors holds one tensor.
        shape: virtual tokens and hidden width, which it must have.
        setting: name of the setting that gives the path, for errors.

    Raises:
        ConfigError: there is no such file, it is of another kind, or what it holds is not a matrix of that shape.
    """
    file = Path(path).expanduser()
    if file.suffix not in (".safetensors", ".npy"):
        raise ConfigError(f"{setting} is '{path}'; give a .safetensors or .npy file")
    try:
        tensors = list(load_file(file).values()) if file.suffix == ".safetensors" else [_read_array(file)]
    except (OSError, ValueError, EOFError, TypeError, SafetensorError) as error:
        raise ConfigError(f"{setting}: '{path}' cannot be read ({error}); give a sound file of numbers") from error
    found = ", ".join(str(list(tensor.shape)) for tensor in tensors) or "nothing"
    if len(tensors) != 1 or tensors[0].shape != shape or not tensors[0].is_floating_point():
        kinds = "" if all(t.is_floating_point() for t in tensors) else " (not of floating-point numbers)"
        raise ConfigError(
            f"{setting}: '{path}' holds {found}{kinds}, expected one matrix of num_virtual_tokens x hidden width,"
            f" {list(shape)}"
        )
    if not tensors[0].isfinite().all():
        raise ConfigError(f"{setting}: '{path}' holds NaN or infinite values; give another file")
    return tensors[0].to(torch.float32)


def _read_array(path: Path) -> Tensor:
    with path.open("rb") as file:  # mapped into memory, a damaged file could end the process
        return torch.from_numpy(np.lib.format.read_array(file, allow_pickle=False))


def drawn_linear(d_in: int, d_out: int, generator: torch.Generator) -> nn.Linear:
    """Return a linear with PyTorch's default start, drawn from ``generator``."""
    linear: nn.Linear = nn.utils.skip_init(nn.Linear, d_in, d_out)  # type: ignore[no-untyped-call]
    draw(linear, d_in**-0.5, generator)
    return linear


@torch.no_grad()
def draw(module: nn.Module, bound: float, generator: torch.Generator) -> None:
    """Draw every parameter of ``module`` evenly from -bound to bound."""
    for parameter in module.parameters():
        parameter.uniform_(-bound, bound, generator=generator)


@torch.no_grad()
def fit_last_layer(layer: nn.Linear, inputs: Tensor, wanted: Tensor) -> None:
    """Change the weights of ``layer`` as little as possible such that it maps ``inputs`` [P, m] to ``wanted`` [P, n].

    The least-squares solution: exact, to rounding, where P is not above m and no two inputs are alike.
    """
    missing = wanted.double().to(inputs.device) - layer(inputs).double()
    layer.weight += (torch.linalg.pinv(inputs.double()) @ missing).T.to(layer.weight)


def _tokenizer(target: Target, setting: str) -> PreTrainedTokenizerBase:
    if target.tokenizer is None:
        raise ConfigError(
            f"{setting} needs the base's tokenizer, and the base came without one; wrap the model with it:"
            " Base.from_model(model, tokenizer)"
        )
    return target.tokenizer
