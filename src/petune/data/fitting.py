"""Rows against the longest length allowed, for tasks whose labels are not the text's own tokens."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from petune.backbone.tokenizer import beginning_token_id
from petune.data.encoding import Encoded, EncodedSet, overlong_error
from petune.data.examples import Example, ExampleSet, Segment
from petune.data.insertion import with_virtual_tokens
from petune.data.report import DataReport, length_quantiles
from petune.data.tokens import tokenise
from petune.errors import ConfigError, DataError
from petune.sites.placement import Insertion, insert_into_row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Fitted:
    """The rows that are left, and what became of the others."""

    rows: list[Encoded]
    cut: frozenset[str] = frozenset()
    """Origins of the rows of which only the front is left."""
    dropped: Counter[str] = field(default_factory=Counter)


def text_ids(
    examples: Sequence[Example], tokenizer: "PreTrainedTokenizerBase", insertions: Sequence[Insertion] = ()
) -> list[list[int]]:
    """Return the token ids of each prompt as a text of its own, virtual tokens of the first version included."""
    texts = [replace(example, segments=(Segment(example.prompt, learned=False),)) for example in examples]
    return [tokens.ids for tokens in tokenise([with_virtual_tokens(text, insertions) for text in texts], tokenizer)]


def in_front(
    ids: list[int], insertions: Sequence[Insertion], tokenizer: "PreTrainedTokenizerBase"
) -> tuple[list[int], list[int | None]]:
    """Return the ids of a row with virtual tokens in front of its text, and of each id its former place.

    Raises:
        ConfigError: the virtual tokens stand elsewhere, or in several versions.
    """
    places: list[int | None] = list(range(len(ids)))
    for insertion in insertions:
        if insertion.placement.after or insertion.placement.versions > 1:
            raise ConfigError(
                "virtual tokens behind the text, and prompts that vote, are for rows with one answer; here they can"
                " stand in front (placement=prepend or after_bos), one prompt at a time"
            )
        marks = [-1 if place is None else place for place in places]
        ids, marks = insert_into_row(ids, insertion, bos_token_id=beginning_token_id(tokenizer), labels=marks)
        places = [None if mark < 0 else mark for mark in marks]
    return ids, places


def fit(
    rows: Sequence[Encoded],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    max_length: int,
    overlong: Literal["error", "drop", "truncate"],
    source: str,
    insertions: Sequence[Insertion] = (),
    room: int | None = None,
) -> Fitted:
    """Apply ``overlong`` to the rows of more than ``max_length`` tokens.

    A cut row keeps its front and the special tokens at its end; labels that are as many as the tokens are cut likewise.

    Raises:
        DataError: there are some, and ``overlong`` is error; or no row is left.
    """
    long = [row for row in rows if len(row.input_ids) > max_length]
    if long and overlong == "error":
        raise overlong_error(long, len(rows), max_length, room)
    kept = [row for row in rows if len(row.input_ids) <= max_length or overlong == "truncate"]
    fitted = [_front(row, max_length, tokenizer) for row in kept]
    whole = [row for row in fitted if all(insertion.holds_all(row.input_ids) for insertion in insertions)]
    if not whole:
        raise DataError(f"{source}: every row is longer than {max_length:,} tokens; choose another --overlong")
    lost = {
        f"longer than the maximum length of {max_length:,} tokens": len(rows) - len(kept),
        f"virtual tokens lie beyond the maximum length of {max_length:,} tokens": len(fitted) - len(whole),
    }
    cut = {row.origin for row in long} & {row.origin for row in whole}
    return Fitted(whole, frozenset(cut), Counter({reason: count for reason, count in lost.items() if count}))


def _front(row: Encoded, longest: int, tokenizer: "PreTrainedTokenizerBase") -> Encoded:
    size = len(row.input_ids)
    if size <= longest:
        return row
    ends = set(tokenizer.all_special_ids) - {tokenizer.mask_token_id}
    behind = 0
    while behind < tokenizer.num_special_tokens_to_add() and row.input_ids[size - 1 - behind] in ends:
        behind += 1

    def front(values: list[int]) -> list[int]:
        return [*values[: longest - behind], *values[size - behind :]]

    labels = front(row.labels) if len(row.labels) == size else row.labels
    return Encoded(front(row.input_ids), labels, row.origin)


def encoded_set(
    examples: ExampleSet,
    fitted: Fitted,
    *,
    max_length: int,
    label_tokens: int,
    shown: str,
    notes: Sequence[str] = (),
    insertions: Sequence[Insertion] = (),
) -> EncodedSet:
    """Return the rows with the report on them.

    Args:
        examples: what was encoded.
        fitted: what is left of it.
        max_length: longest row allowed.
        label_tokens: labels of all rows.
        shown: the first row as the model sees it, with its target between ⟦ and ⟧.
        notes: things worth a look.
        insertions: virtual tokens in the rows; those of several versions are written for each.
    """
    lengths = [len(row.input_ids) for row in fitted.rows]
    report = DataReport(
        source=examples.source,
        layout=examples.layout,
        rows_read=len(examples),
        rows_kept=len(fitted.rows),
        rows_cut=len(fitted.cut),
        dropped=dict(fitted.dropped),
        max_length=max_length,
        lengths=length_quantiles(lengths),
        total_tokens=sum(lengths),
        label_tokens=label_tokens,
        example=shown,
        example_origin=fitted.rows[0].origin,
        notes=tuple(notes),
    )
    rows = [row for first in fitted.rows for row in versions_of(first, insertions)]
    return EncodedSet(rows, report, fitted.cut)


def versions_of(row: Encoded, insertions: Sequence[Insertion]) -> list[Encoded]:
    """Return the versions of a row whose ids are those of the first."""
    rows = [row]
    for insertion in insertions:
        rows = [replace(each, input_ids=ids) for each in rows for ids in insertion.versions(each.input_ids)]
    return rows
