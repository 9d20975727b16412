"""Rendered rows to token ids: the text of a row is tokenised whole, and virtual tokens are put where they belong.

A token belongs to the segment that holds its **last character**: a token that straddles the start of a learned
segment is learned (the completion never loses its first token), one that straddles its end is not. So virtual tokens
between two segments stand before a token that straddles them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from petune.backbone.tokenizer import beginning_token_id
from petune.data.examples import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one row."""

    ids: list[int]
    learned: list[bool]
    added: list[bool]
    """Which are special tokens that the tokenizer added to the text."""
    straddles: bool
    """Whether one holds both the end of what is not learned and the start of what is."""


def tokenise(examples: Sequence[Example], tokenizer: "PreTrainedTokenizerBase") -> list[Tokens]:
    """Return the tokens of each row, virtual ones included."""
    if not tokenizer.is_fast:
        return [_by_segment(example, tokenizer) for example in examples]
    results: dict[int, Tokens] = {}
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
            added = [bool(flag) for flag in batch["special_tokens_mask"][position]]
            offsets = batch["offset_mapping"][position]
            ids = batch["input_ids"][position]
            learned, straddles = _learned_tokens(examples[i], offsets, added)
            places = _places(examples[i], offsets, ids, added, tokenizer)
            results[i] = _with_virtual(examples[i], places, Tokens(ids, learned, added, straddles))
    return [results[i] for i in range(len(examples))]


def _learned_tokens(
    example: Example, offsets: Sequence[tuple[int, int]], added: Sequence[bool]
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


def _places(
    example: Example,
    offsets: Sequence[tuple[int, int]],
    ids: Sequence[int],
    added: Sequence[bool],
    tokenizer: "PreTrainedTokenizerBase",
) -> Iterator[int]:
    """Yield, for each segment of virtual tokens, the index of the token they stand before."""
    text = [token for token in range(len(ids)) if not added[token]]
    if text and text[0] == 0 and ids[0] == beginning_token_id(tokenizer):
        text = text[1:]  # a chat template wrote it
    end = text[-1] + 1 if text else int(bool(ids) and ids[0] == beginning_token_id(tokenizer))
    start = 0
    for segment in example.segments:
        if segment.virtual:
            behind = (token for token in text if max(offsets[token][0], offsets[token][1] - 1) >= start)
            yield 0 if segment.before_special else next(behind, end)
        start += len(segment.text)


def _with_virtual(example: Example, places: Iterator[int], tokens: Tokens) -> Tokens:
    """Return ``tokens`` with the virtual tokens of ``example`` before those at ``places``."""
    inserted = list(zip(places, (s.virtual for s in example.segments if s.virtual), strict=True))
    if not inserted:
        return tokens
    ids, learned, added = [], [], []
    done = 0
    for place, virtual in [*inserted, (len(tokens.ids), ())]:
        ids += [*tokens.ids[done:place], *virtual]
        learned += [*tokens.learned[done:place], *[False] * len(virtual)]
        added += [*tokens.added[done:place], *[False] * len(virtual)]
        done = place
    return Tokens(ids, learned, added, tokens.straddles)


def _by_segment(example: Example, tokenizer: "PreTrainedTokenizerBase") -> Tokens:
    """Tokenise segment after segment: tokenizers written in Python have no offsets."""
    ids: list[int] = []
    learned: list[bool] = []
    places: list[int] = []
    for segment in example.segments:
        if segment.virtual:
            places.append(-1 if segment.before_special else len(ids))
        piece = list(tokenizer(segment.text, add_special_tokens=False, verbose=False)["input_ids"])
        ids += piece
        learned += [segment.learned] * len(piece)
    before = after = 0
    if example.add_special_tokens:
        whole = list(tokenizer.build_inputs_with_special_tokens(ids))
        before = next(i for i in range(len(whole) + 1) if whole[i : i + len(ids)] == ids)
        after = len(whole) - before - len(ids)
        learned = [False] * before + learned + [False] * after
        ids = whole
    added = [True] * before + [False] * (len(ids) - before - after) + [True] * after
    own = int(not before and ids[:1] == [beginning_token_id(tokenizer)])
    found = (0 if place < 0 else max(place, own) + before for place in places)
    return _with_virtual(example, found, Tokens(ids, learned, added, straddles=False))
