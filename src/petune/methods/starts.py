"""Starts that several methods share: tokens whose embeddings, or keys and values, virtual tokens begin as."""

import torch
from torch import Tensor

from petune.errors import ConfigError
from petune.methods.method import Target

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
        common = min(COMMON_TOKENS, target.model.get_input_embeddings().weight.shape[0])
        return torch.randperm(common, generator=target.generator).repeat(-(-length // common))[:length]
    if target.shapes_only:
        return torch.zeros(length, dtype=torch.int64)
    if target.tokenizer is None:
        raise ConfigError(
            f"{setting} needs the base's tokenizer, and the base came without one; wrap the model with it:"
            " Base.from_model(model, tokenizer)"
        )
    ids = target.tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise ConfigError(f"{setting} is empty; give a text of at least one token")
    if len(ids) > length:
        raise ConfigError(
            f"{setting} has {len(ids)} tokens, num_virtual_tokens is {length}: a start may not be longer than what it"
            f" starts. Shorten the text, or set num_virtual_tokens={len(ids)}"
        )
    return torch.tensor((ids * (-(-length // len(ids))))[:length])
