"""Virtual tokens, and the anchor texts between them, written into rendered rows."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from petune.data.examples import Example, Segment
from petune.errors import DataError
from petune.sites.placement import Gap, Insertion, Part


def with_virtual_tokens(example: Example, insertions: Iterable[Insertion]) -> Example:
    """Return ``example`` with segments of virtual tokens and of anchor text.

    Raises:
        DataError: they belong between prompt and answer, and the row's text does not go on where its prompt ends; or
            both they and the row's own template say where its answer stands.
    """
    for insertion in insertions:
        example = _insert(example, insertion)
    return example


def _insert(example: Example, insertion: Insertion) -> Example:
    placement = insertion.placement
    if example.suffix is not None and placement.places_answer:
        raise DataError(
            f"{example.origin}: its answer has 2 places, {{mask}} in the adapter's template and {{{{ mask }}}} in the"
            " rows' own (--template); leave one of them out"
        )
    # Where a row goes on after its answer, what belongs behind its text is behind all of it.
    whole = bool(example.suffix) or not (placement.after or placement.places_answer)
    head, answer = (example.segments, ()) if whole else _split(example)
    ids = insertion.ids()
    before = tuple(_segments(placement.before, ids, answer, before_special=placement.before_special))
    after = tuple(_segments(placement.after, ids, answer))
    segments = (*before, *head, *after, *(() if placement.places_answer else answer))
    if example.suffix:
        suffix = example.suffix + _text(placement.after)
        return replace(example, segments=segments, prompt=_text(placement.before) + example.prompt, suffix=suffix)
    line = (*placement.before, example.prompt, *placement.after)
    place = line.index(Gap.ANSWER) if placement.places_answer else len(line)
    return replace(example, segments=segments, prompt=_text(line[:place]), suffix=_text(line[place:]) or None)


def _text(parts: Sequence[Part]) -> str:
    return "".join(part for part in parts if isinstance(part, str))


def _segments(
    parts: Sequence[Part], ids: Iterator[int], answer: Sequence[Segment], *, before_special: bool = False
) -> Iterator[Segment]:
    for part in parts:
        if isinstance(part, Gap):
            yield from answer
        elif isinstance(part, str):
            yield Segment(part, learned=False)
        else:
            virtual = tuple(next(ids) for _ in range(part))
            yield Segment("", learned=False, virtual=virtual, before_special=before_special)


def _split(example: Example) -> tuple[tuple[Segment, ...], tuple[Segment, ...]]:
    """Return the segments of the prompt and those behind it."""
    text = "".join(segment.text for segment in example.segments)
    learned = [segment.learned for segment in example.segments if segment.text]
    if not text.startswith(example.prompt) or (text == example.prompt and any(learned)):
        raise DataError(
            f"{example.origin}: virtual tokens belong between prompt and answer, and this row is not a prompt with its"
            " answer behind it; put them elsewhere (placement=prepend or after_bos), or give rows with a target"
        )
    head: list[Segment] = []
    tail: list[Segment] = []
    left = len(example.prompt)
    for segment in example.segments:
        cut = min(left, len(segment.text))
        left -= cut
        if segment.virtual or cut == len(segment.text):
            (tail if tail else head).append(segment)
            continue
        if cut:
            head.append(replace(segment, text=segment.text[:cut]))
        tail.append(replace(segment, text=segment.text[cut:]))
    return tuple(head), tuple(tail)
