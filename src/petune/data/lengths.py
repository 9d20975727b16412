"""How long a row may be: what the user allows, and what the model has a place for."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from petune.data.encoding import EncodedSet, encode
from petune.data.examples import ExampleSet
from petune.errors import DataError
from petune.sites.placement import Insertion

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_CAP = 4096
"""Longest row, in tokens, where the user names no length and the model allows more."""


def encode_within(
    examples: ExampleSet,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    max_length: int | None = None,
    overlong: Literal["error", "drop", "truncate"] = "error",
    model_limit: int | None = None,
    virtual_tokens: int = 0,
    insertions: Sequence[Insertion] = (),
) -> EncodedSet:
    """Encode rows for a model, none of them longer than it has places for.

    Args:
        examples: rendered rows.
        tokenizer: the base model's.
        max_length: longest row, in tokens, that the user asked for.
        overlong: what to do with longer rows.
        model_limit: positions of the model; None where unknown or unlimited.
        virtual_tokens: positions that adapters take in front of each row.
        insertions: virtual tokens to write into each row; they count as the row's own.

    Raises:
        DataError: as :func:`resolve_max_length` and :func:`petune.data.encoding.encode` do.
    """
    longest = resolve_max_length(max_length, tokenizer, model_limit=model_limit, virtual_tokens=virtual_tokens)
    room = None if model_limit is None else model_limit - virtual_tokens
    return encode(examples, tokenizer, max_length=longest, overlong=overlong, insertions=insertions, room=room)


def resolve_max_length(
    max_length: int | None,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    model_limit: int | None = None,
    virtual_tokens: int = 0,
) -> int:
    """Return the longest row in tokens: the user's, else the model's own limit, at most 4096.

    Args:
        max_length: what the user asked for.
        tokenizer: its ``model_max_length`` counts where it says anything real.
        model_limit: positions of the model; None where unknown or unlimited.
        virtual_tokens: positions that an adapter takes in front of each row.

    Raises:
        DataError: the user's length is more than the model has positions, or virtual tokens leave none.
    """
    room = None if model_limit is None else model_limit - virtual_tokens
    taken = f", of which the adapter's virtual tokens take {virtual_tokens:,}" if virtual_tokens else ""
    if room is not None and room < 2:
        raise DataError(f"the model has {model_limit:,} positions{taken}: no row fits; use fewer virtual tokens")
    if max_length is None:
        return min(DEFAULT_CAP, int(tokenizer.model_max_length), DEFAULT_CAP if room is None else room)
    if room is not None and max_length > room:
        raise DataError(
            f"--max-length {max_length} is more than the model allows: it has {model_limit:,} positions{taken}; "
            f"use --max-length {room} or less"
        )
    return max_length
