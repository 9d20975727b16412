"""Text to token ids and labels.

The text of a row is tokenised whole, once, as the model will see it, and labels follow from character offsets
(:mod:`petune.data.tokens`).
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from petune.data.examples import Example, ExampleSet
from petune.data.insertion import with_virtual_tokens
from petune.data.report import DataReport, length_quantiles
from petune.data.tokens import tokenise
from petune.errors import DataError
from petune.sites.placement import Insertion

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger("petune")

IGNORED = -100
"""The label of a token that is not learned (PyTorch's and transformers' convention)."""

_CHUNK = 1000
_EMPTY = "nothing to learn (the text, completion or assistant turns are empty)"
_NO_LABEL = "nothing to learn (the learned part is no token, or the row's first one alone)"
_CUT_AWAY = "the learned part lies beyond the maximum length"
_TOO_LONG = "longer than the maximum length"


@dataclass(frozen=True, slots=True)
class Encoded:
    """One row as token ids.

    For a causal language model ``labels[t]`` is ``input_ids[t]`` where learned, else -100 (not shifted); each task says
    what its labels are.
    """

    input_ids: list[int]
    labels: list[int]
    origin: str
    token_types: list[int] = field(default_factory=list)
    """Which of two texts each token is of, for models that want to know; empty otherwise."""
    task: str = ""
    """Name of the task it is of, in a run for several."""
    is_pair: bool = False
    """Whether the labels are a target that a decoder reads and writes, while an encoder reads ``input_ids``."""

    @property
    def num_tokens(self) -> int:
        """Tokens that a model goes over: those of the target too, where it is a sequence of its own."""
        return len(self.input_ids) + self.target_tokens

    @property
    def target_tokens(self) -> int:
        """Tokens of a target that is a sequence of its own; 0 where there is none."""
        return len(self.labels) if self.is_pair else 0

    def unlabelled(self) -> "Encoded":
        """Return the row with nothing learned of it."""
        return Encoded(self.input_ids, [IGNORED] * len(self.input_ids), self.origin)


@dataclass(frozen=True, slots=True)
class EncodedSet:
    """Rows ready to be batched, and what became of those that were read."""

    rows: list[Encoded]
    report: DataReport
    cut: frozenset[str]
    """Origins of the rows of which only the front is left."""


def encode(
    examples: ExampleSet,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    max_length: int,
    overlong: Literal["error", "drop", "truncate"] = "error",
    eos: bool = True,
    insertions: Sequence[Insertion] = (),
    room: int | None = None,
) -> EncodedSet:
    """Tokenise rows, label what is learned, and report what was kept, cut and dropped.

    Args:
        examples: rendered rows.
        tokenizer: the base model's.
        max_length: longest row in tokens (see :func:`petune.data.lengths.resolve_max_length`).
        overlong: what to do with longer rows; truncate keeps the front.
        eos: end rows that no chat template wrote with EOS, learned where the row's last segment is.
        insertions: virtual tokens to write into each row. Where they come in several versions, so does each row, one
            behind the other.
        room: the most that ``max_length`` could be; None where nothing limits it.

    Raises:
        DataError: rows are too long and ``overlong`` is error; or no row with a label is left; or virtual tokens do
            not fit a row.
    """
    dropped: Counter[str] = Counter()
    kept: list[Encoded] = []
    overlong_rows: list[Encoded] = []
    cut: set[str] = set()
    straddling = 0
    for row, straddles in _encode_all(examples, tokenizer, eos, dropped, insertions):
        straddling += straddles
        if len(row.input_ids) <= max_length:
            kept.append(row)
            continue
        overlong_rows.append(row)
        if overlong == "drop":
            dropped[f"{_TOO_LONG} of {max_length:,} tokens"] += 1
        elif overlong == "truncate":
            row = Encoded(row.input_ids[:max_length], row.labels[:max_length], row.origin)
            if _label_count(row.labels) and all(insertion.holds_all(row.input_ids) for insertion in insertions):
                cut.add(row.origin)
                kept.append(row)
            else:
                dropped[f"{_CUT_AWAY} of {max_length:,} tokens"] += 1
    if overlong_rows and overlong == "error":
        raise overlong_error(overlong_rows, len(examples), max_length, room)
    if not kept:
        raise _nothing_left(examples, dropped)
    report = _report(examples, kept, tokenizer, dropped, len(cut), max_length, straddling, insertions)
    for insertion in insertions:
        kept = [Encoded(ids, row.labels, row.origin) for row in kept for ids in insertion.versions(row.input_ids)]
    return EncodedSet(kept, report, frozenset(cut))


def of_task(encoded: EncodedSet, name: str) -> EncodedSet:
    """Return the rows, and the report on them, as those of the task ``name``."""
    rows = [replace(row, task=name) for row in encoded.rows]
    return EncodedSet(rows, replace(encoded.report, task=name), encoded.cut)


def kept_whole(examples: ExampleSet, encoded: EncodedSet) -> ExampleSet:
    """Return the rows of ``examples`` that were neither dropped nor cut when they were encoded."""
    whole = {row.origin for row in encoded.rows} - encoded.cut
    rows = [example for example in examples if example.origin in whole]
    if encoded.cut:
        logger.info(
            "%s: the loss alone is measured on %s of %s rows, which were cut; other metrics compare whole rows",
            examples.source,
            f"{len(encoded.cut):,}",
            f"{len(examples):,}",
        )
    return ExampleSet(rows, source=examples.source, layout=examples.layout)


def _encode_all(
    examples: Sequence[Example],
    tokenizer: "PreTrainedTokenizerBase",
    eos: bool,
    dropped: Counter[str],
    insertions: Sequence[Insertion],
) -> Iterator[tuple[Encoded, bool]]:
    """Yield the rows with something to learn, and whether a token straddles the start of that."""
    for start in range(0, len(examples), _CHUNK):
        chunk = []
        for example in examples[start : start + _CHUNK]:
            if any(segment.learned and segment.text.strip() for segment in example.segments):
                chunk.append(with_virtual_tokens(example, insertions))
            else:
                dropped[_EMPTY] += 1
        for example, tokens in zip(chunk, tokenise(chunk, tokenizer), strict=True):
            ids, learned = tokens.ids, tokens.learned
            if eos and example.add_special_tokens:
                _end_with_eos(ids, learned, example.segments[-1].learned, tokenizer.eos_token_id)
            labels = [token if is_learned else IGNORED for token, is_learned in zip(ids, learned, strict=True)]
            if _label_count(labels):
                yield Encoded(ids, labels, example.origin), tokens.straddles
            else:
                dropped[_NO_LABEL] += 1


def _label_count(labels: Sequence[int]) -> int:
    """Count the labels the loss sees: nothing comes before the first token that it could be told from."""
    return sum(label != IGNORED for label in labels[1:])


def _end_with_eos(ids: list[int], learned: list[bool], last_learned: bool, eos_token_id: int | None) -> None:
    if eos_token_id is None:
        return
    if ids and ids[-1] == eos_token_id:
        learned[-1] = last_learned
    else:
        ids.append(eos_token_id)
        learned.append(last_learned)


def overlong_error(rows: Sequence[Encoded], total: int, max_length: int, room: int | None) -> DataError:
    """Return the error that so many of ``total`` are longer than ``max_length``, which may be ``room`` at most."""
    longest = max(rows, key=lambda row: len(row.input_ids))
    size = len(longest.input_ids)
    longer = "shorten them" if room is not None and size > room else f"choose --max-length {size} to keep them whole"
    return DataError(
        f"{len(rows):,} of {total:,} rows are longer than {max_length:,} tokens (the longest has {size:,}, "
        f"at {longest.origin}); {longer}, --overlong drop to leave them out, or --overlong truncate to keep the first "
        f"{max_length:,} tokens of each"
    )


def _nothing_left(examples: ExampleSet, dropped: Counter[str]) -> DataError:
    reasons = ", ".join(f"{count:,}: {reason}" for reason, count in dropped.items()) or "it has no rows"
    return DataError(
        f"{examples.source}: not one of {len(examples):,} rows has a token to learn ({reasons}); see "
        "--max-length and --overlong for rows that are too long, --columns, --target and --train-on for "
        "what is learned"
    )


def _report(
    examples: ExampleSet,
    kept: Sequence[Encoded],
    tokenizer: "PreTrainedTokenizerBase",
    dropped: Counter[str],
    cut: int,
    max_length: int,
    straddling: int,
    insertions: Sequence[Insertion],
) -> DataReport:
    lengths = [len(row.input_ids) for row in kept]
    notes = []
    if straddling:
        notes.append(
            f"in {straddling:,} rows one token holds both the end of the prompt and the start of what is "
            "learned (it is learned); start the target with the space instead of ending the prompt with it"
        )
    return DataReport(
        source=examples.source,
        layout=examples.layout,
        rows_read=len(examples),
        rows_kept=len(kept),
        rows_cut=cut,
        dropped=dict(dropped),
        max_length=max_length,
        lengths=length_quantiles(lengths),
        total_tokens=sum(lengths),
        label_tokens=sum(_label_count(row.labels) for row in kept),
        example=marked_text(kept[0], tokenizer, insertions),
        example_origin=kept[0].origin,
        notes=tuple(notes),
    )


def marked_text(row: Encoded, tokenizer: "PreTrainedTokenizerBase", insertions: Sequence[Insertion] = ()) -> str:
    """Return the row decoded, its learned spans between ⟦ and ⟧, each virtual token as ◇."""
    virtual = {token for insertion in insertions for token in insertion.ids()}
    text = ""
    marked = ""
    learned = False
    for position in range(len(row.input_ids) + 1):
        is_end = position == len(row.input_ids)
        is_virtual = not is_end and row.input_ids[position] in virtual
        now = not is_end and row.labels[position] != IGNORED
        if now != learned or is_virtual or is_end:
            before = [token for token in row.input_ids[:position] if token not in virtual]
            so_far = tokenizer.decode(before, clean_up_tokenization_spaces=False)
            marked += so_far[len(text) :] + ("" if now == learned else "⟦" if now else "⟧") + "◇" * is_virtual
            text, learned = so_far, now
    return marked
