"""Text to token ids and labels.

The text of a row is tokenised whole, once, as the model will see it, and labels follow from character
offsets. A token belongs to the segment that holds its **last character**: a token that straddles the start
of a learned segment is learned (the completion never loses its first token), one that straddles its end is
not.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from petune.data.examples import Example, ExampleSet
from petune.data.report import DataReport, length_quantiles
from petune.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""The label of a token that is not learned (PyTorch's and transformers' convention)."""

DEFAULT_CAP = 4096
"""Longest row, in tokens, where the user names no length and the model allows more."""

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


@dataclass(frozen=True, slots=True)
class EncodedSet:
    """Rows ready to be batched, and what became of those that were read."""

    rows: list[Encoded]
    report: DataReport


def resolve_max_length(
    max_length: int | None, tokenizer: "PreTrainedTokenizerBase", *, model_limit: int | None = None
) -> int:
    """Return the longest row in tokens: the user's, else the model's own limit, at most 4096.

    Args:
        max_length: what the user asked for.
        tokenizer: its ``model_max_length`` counts where it says anything real.
        model_limit: positions of the model; None where unknown or unlimited.

    Raises:
        DataError: the user's length is more than the model has positions.
    """
    if max_length is not None:
        if model_limit is not None and max_length > model_limit:
            raise DataError(
                f"--max-length {max_length} is more than the {model_limit} positions of the model; "
                f"use --max-length {model_limit} or less"
            )
        return max_length
    return min(DEFAULT_CAP, int(tokenizer.model_max_length), model_limit or DEFAULT_CAP)


def encode(
    examples: ExampleSet,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    max_length: int,
    overlong: Literal["error", "drop", "truncate"] = "error",
    eos: bool = True,
) -> EncodedSet:
    """Tokenise rows, label what is learned, and report what was kept, cut and dropped.

    Args:
        examples: rendered rows.
        tokenizer: the base model's.
        max_length: longest row in tokens (see :func:`resolve_max_length`).
        overlong: what to do with longer rows; truncate keeps the front.
        eos: end rows that no chat template wrote with EOS, learned where the row's last segment is.

    Raises:
        DataError: rows are too long and ``overlong`` is error; or no row with a label is left.
    """
    dropped: Counter[str] = Counter()
    kept: list[Encoded] = []
    overlong_rows: list[Encoded] = []
    cut = 0
    straddling = 0
    for row, straddles in _encode_all(examples, tokenizer, eos, dropped):
        straddling += straddles
        if len(row.input_ids) <= max_length:
            kept.append(row)
            continue
        overlong_rows.append(row)
        if overlong == "drop":
            dropped[f"{_TOO_LONG} of {max_length:,} tokens"] += 1
        elif overlong == "truncate":
            row = Encoded(row.input_ids[:max_length], row.labels[:max_length], row.origin)
            if _label_count(row.labels):
                cut += 1
                kept.append(row)
            else:
                dropped[f"{_CUT_AWAY} of {max_length:,} tokens"] += 1
    if overlong_rows and overlong == "error":
        raise _overlong_error(overlong_rows, len(examples), max_length)
    if not kept:
        raise _nothing_left(examples, dropped)
    return EncodedSet(kept, _report(examples, kept, tokenizer, dropped, cut, max_length, straddling))


def _encode_all(
    examples: Sequence[Example], tokenizer: "PreTrainedTokenizerBase", eos: bool, dropped: Counter[str]
) -> Iterator[tuple[Encoded, bool]]:
    """Yield the rows with something to learn, and whether a token straddles the start of that."""
    for start in range(0, len(examples), _CHUNK):
        chunk = []
        for example in examples[start : start + _CHUNK]:
            if any(segment.learned and segment.text.strip() for segment in example.segments):
                chunk.append(example)
            else:
                dropped[_EMPTY] += 1
        for example, (ids, learned, straddles) in zip(chunk, _tokenise(chunk, tokenizer), strict=True):
            if eos and example.add_special_tokens:
                _end_with_eos(ids, learned, example.segments[-1].learned, tokenizer.eos_token_id)
            labels = [token if is_learned else IGNORED for token, is_learned in zip(ids, learned, strict=True)]
            if _label_count(labels):
                yield Encoded(ids, labels, example.origin), straddles
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


_Tokens = tuple[list[int], list[bool], bool]
"""Ids, whether each is learned, and whether one straddles the start of a learned segment."""


def _tokenise(examples: Sequence[Example], tokenizer: "PreTrainedTokenizerBase") -> list[_Tokens]:
    if not tokenizer.is_fast:
        return [_tokenise_by_segment(example, tokenizer) for example in examples]
    results: dict[int, _Tokens] = {}
    for special in (True, False):
        indices = [i for i, example in enumerate(examples) if example.add_special_tokens is special]
        if not indices:
            continue
        batch = tokenizer(
            ["".join(segment.text for segment in examples[i].segments) for i in indices],
            add_special_tokens=special,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            return_attention_mask=False,
            verbose=False,
        )
        for position, i in enumerate(indices):
            learned, straddles = _learned_tokens(
                examples[i], batch["offset_mapping"][position], batch["special_tokens_mask"][position]
            )
            results[i] = (batch["input_ids"][position], learned, straddles)
    return [results[i] for i in range(len(examples))]


def _learned_tokens(
    example: Example, offsets: Sequence[tuple[int, int]], added: Sequence[int]
) -> tuple[list[bool], bool]:
    """Say of each token whether it is learned, and whether one straddles the start of a learned segment."""
    bounds: list[tuple[int, int]] = []
    end = 0
    for segment in example.segments:
        start, end = end, end + len(segment.text)
        if segment.learned and end > start:
            if bounds and bounds[-1][1] == start:
                start = bounds.pop()[0]
            bounds.append((start, end))
    learned = [False] * len(offsets)
    straddles = False
    current = 0
    for token, (first, after) in enumerate(offsets):
        if added[token]:
            continue
        last = max(first, after - 1)
        while current < len(bounds) and bounds[current][1] <= last:
            current += 1
        if current == len(bounds):
            break
        if bounds[current][0] <= last:
            learned[token] = True
            straddles = straddles or first < bounds[current][0]
    return learned, straddles


def _tokenise_by_segment(example: Example, tokenizer: "PreTrainedTokenizerBase") -> _Tokens:
    """Tokenise segment after segment: tokenizers written in Python have no offsets."""
    ids: list[int] = []
    learned: list[bool] = []
    for segment in example.segments:
        piece = list(tokenizer(segment.text, add_special_tokens=False, verbose=False)["input_ids"])
        ids += piece
        learned += [segment.learned] * len(piece)
    if example.add_special_tokens:
        whole = tokenizer.build_inputs_with_special_tokens(ids)
        before = next(i for i in range(len(whole) + 1) if whole[i : i + len(ids)] == ids)
        learned = [False] * before + learned + [False] * (len(whole) - before - len(ids))
        ids = list(whole)
    return ids, learned, False


def _overlong_error(rows: Sequence[Encoded], total: int, max_length: int) -> DataError:
    longest = max(rows, key=lambda row: len(row.input_ids))
    size = len(longest.input_ids)
    return DataError(
        f"{len(rows):,} of {total:,} rows are longer than {max_length:,} tokens (the longest has {size:,}, "
        f"at {longest.origin}); choose --max-length {size} to keep them whole, --overlong drop to leave "
        f"them out, or --overlong truncate to keep the first {max_length:,} tokens of each"
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
        example=marked_text(kept[0], tokenizer),
        example_origin=kept[0].origin,
        notes=tuple(notes),
    )


def marked_text(row: Encoded, tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return the row decoded, its learned spans between ⟦ and ⟧."""
    text = ""
    marked = ""
    learned = False
    for position in range(len(row.input_ids) + 1):
        is_end = position == len(row.input_ids)
        now = not is_end and row.labels[position] != IGNORED
        if now != learned or is_end:
            so_far = tokenizer.decode(row.input_ids[:position], clean_up_tokenization_spaces=False)
            marked += so_far[len(text) :] + ("" if now == learned else "⟦" if now else "⟧")
            text, learned = so_far, now
    return marked
