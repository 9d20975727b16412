"""Where the virtual tokens of an adapter stand in a row, and in how many versions a row is written.

A row is a prompt and, in training, its answer. Virtual tokens and texts of an adapter's own (anchors) stand before the
prompt or between prompt and answer; where a model fills the answer in, a template may put the answer among them.
"""

import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal, final

import torch
from torch import Tensor

from petune.errors import ConfigError, nearest
from petune.sites.head import IGNORED

Place = Literal["prepend", "after_bos", "append"]
"""Before everything; behind the token that begins a text; between prompt and answer."""

Combine = Literal["average", "vote"]
"""How the answers to several versions of a row become one: the mean of their probabilities, or most votes."""

Side = Literal["left", "right"]
"""Where padding stands."""


class Gap(Enum):
    """What a template leaves room for besides the row's text."""

    ANSWER = "mask"


Part = str | int | Gap
"""An anchor text, how many virtual tokens, or the place of the answer."""

_SLOTS = ("p*N", "text", "mask")


@final
@dataclass(frozen=True, slots=True)
class Placement:
    """How an adapter wants its rows written."""

    before: tuple[Part, ...]
    """What stands before the prompt."""
    after: tuple[Part, ...]
    """What stands behind the prompt: before the answer, unless the answer has a place of its own."""
    before_special: bool = False
    """Whether the first virtual tokens come even before the token that begins a text (BOS)."""
    versions: int = 1
    """In how many versions a row is written, each with virtual tokens of its own."""
    combine: Combine = "average"
    """How the answers to the versions become one."""

    @property
    def num_virtual_tokens(self) -> int:
        """Virtual tokens of one version of a row."""
        return sum(part for part in (*self.before, *self.after) if isinstance(part, int))

    @property
    def places_answer(self) -> bool:
        """Whether it says where the answer stands."""
        return Gap.ANSWER in (*self.before, *self.after)

    @property
    def ends_with_answer(self) -> bool:
        """Whether nothing stands behind the answer."""
        return not self.places_answer or self.after[-1:] == (Gap.ANSWER,)

    @property
    def num_embeddings(self) -> int:
        """Virtual tokens of all versions."""
        return self.versions * self.num_virtual_tokens

    @staticmethod
    def at(place: Place, num_virtual_tokens: int, *, versions: int = 1, combine: Combine = "average") -> "Placement":
        """Return the placement of all virtual tokens at one place."""
        tokens = (num_virtual_tokens,)
        before, after = ((), tokens) if place == "append" else (tokens, ())
        return Placement(before, after, place == "prepend", versions, combine)

    @staticmethod
    def of_template(template: str) -> "Placement":
        """Return the placement that a template writes, such as ``{p*3} {text} {p*3} the answer: {mask}``.

        ``{text}`` is the prompt, ``{p}`` one virtual token and ``{p*N}`` several, ``{mask}`` the answer's place.
        White space before a virtual token or the answer, and at the start, only separates the slots. Braces of the
        text are doubled.

        Raises:
            ConfigError: an unknown slot, a missing one, or one that stands where it cannot.
        """
        slots = list(_parse(template.rstrip()))
        kinds = [slot for _, slot in slots]
        if kinds.count("text") != 1:
            raise ConfigError(f"the template {template!r} needs the slot {{text}} once, for the row's own text")
        if not any(isinstance(slot, int) for slot in kinds):
            raise ConfigError(f"the template {template!r} has no virtual token: write {{p}}, or {{p*3}} for three")
        if kinds.count("mask") > 1:
            raise ConfigError(f"the template {template!r} has the slot {{mask}} twice: a row has one answer")
        before: list[Part] = []
        after: list[Part] = []
        parts = before
        for literal, slot in slots:
            begins = parts is before and all(isinstance(part, int) for part in before)
            text = literal.lstrip() if begins else literal
            text = text if slot == "text" else text.rstrip()
            parts += [text] if text else []
            if slot == "text":
                parts = after
            elif slot == "mask":
                parts.append(Gap.ANSWER)
            elif isinstance(slot, int):
                parts.append(slot)
        return Placement(tuple(before), tuple(after))


def _parse(template: str) -> Iterator[tuple[str, int | str | None]]:
    """Yield each text with the slot behind it: a number of virtual tokens, ``text``, ``mask``, or None at the end."""
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(f"the template {template!r} is malformed ({error}); double the braces of text") from error
    for literal, name, form, conversion in pieces:
        count = name.partition("*")[2] if name is not None and name.startswith("p*") else "1" if name == "p" else ""
        if name is None or (name in ("text", "mask") and not form and not conversion):
            yield literal, name
        elif count.isascii() and count.isdigit() and 0 < int(count) <= 4096:
            yield literal, int(count)
        else:
            raise ConfigError(
                f"the template {template!r} has the unknown slot {{{name}}}.{nearest(name, _SLOTS)}"
                " Slots are {text}, {p} or {p*N} with N from 1 to 4096, and {mask}"
            )


@final
@dataclass(frozen=True, slots=True)
class Insertion:
    """A placement with the token ids that stand for its virtual tokens: ids beyond the vocabulary."""

    placement: Placement
    first_id: int
    """The id of the first virtual token; the others follow, version by version."""

    def ids(self) -> Iterator[int]:
        """Yield the ids of the first version, in the order of the row."""
        return iter(range(self.first_id, self.first_id + self.placement.num_virtual_tokens))

    def versions(self, ids: list[int]) -> list[list[int]]:
        """Return the versions of a row whose ``ids`` are those of the first."""
        step, end = self.placement.num_virtual_tokens, self.first_id + self.placement.num_virtual_tokens
        return [
            [token + step * number if self.first_id <= token < end else token for token in ids]
            for number in range(self.placement.versions)
        ]

    def holds_all(self, ids: list[int]) -> bool:
        """Say whether every virtual token of the first version is among ``ids``."""
        return set(self.ids()).issubset(ids)


def insert_into_row(
    ids: list[int], insertion: Insertion, *, bos_token_id: int | None, labels: list[int] | None = None
) -> tuple[list[int], list[int]]:
    """Return the token ids of a row with virtual tokens, and its labels (-100 where none are given).

    Between prompt and answer is before the first label, or at the end of a row without labels.

    Args:
        ids: a row without padding.
        insertion: virtual tokens at one place; there is no text here to find several in.
        bos_token_id: the token that begins a text.
        labels: of each token, -100 where it is not learned.

    Raises:
        ConfigError: the virtual tokens stand in a template.
    """
    placement = insertion.placement
    parts = (*placement.before, *placement.after)
    if len(parts) > 1:
        raise ConfigError(
            "the virtual tokens stand in a template, which needs the text of a row: use petune.generate, evaluate or"
            " predict, or petune.data.encoding.encode with the model's insertions"
        )
    labels = [IGNORED] * len(ids) if labels is None else labels
    if placement.after:
        place = next((i for i, label in enumerate(labels) if label != IGNORED), len(ids))
    else:
        place = int(not placement.before_special and ids[:1] == [bos_token_id])
    own = list(insertion.ids())
    return [*ids[:place], *own, *ids[place:]], [*labels[:place], *[IGNORED] * len(own), *labels[place:]]


def insert_into_batch(
    batch: Mapping[str, Tensor],
    insertions: Sequence[Sequence[Insertion]],
    *,
    bos_token_id: int | None,
    pad_token_id: int,
    padding_side: Side,
) -> dict[str, Tensor]:
    """Return a padded batch with virtual tokens in it.

    Args:
        batch: ``input_ids`` [B, T]; perhaps ``attention_mask`` and ``labels`` of that shape.
        insertions: for each row, what is inserted into it.
        bos_token_id: the token that begins a text.
        pad_token_id: fills the rows up, on the side where the batch is padded.
        padding_side: where rows are filled up in a batch without padding.

    Raises:
        ConfigError: the virtual tokens stand in a template, rows are written in several versions, or the batch holds
            something else.
    """
    strange = sorted(batch.keys() - {"input_ids", "attention_mask", "labels"})
    if strange or "input_ids" not in batch:
        found = ", ".join(sorted(batch))
        raise ConfigError(f"expected input_ids and perhaps attention_mask and labels [rows, tokens]; got {found}")
    if any(insertion.placement.versions > 1 for row in insertions for insertion in row):
        raise ConfigError(
            "an adapter wants rows in several versions, whose answers become one: use petune.generate, evaluate or"
            " predict"
        )
    ids = batch["input_ids"]
    mask = batch.get("attention_mask", torch.ones_like(ids)).bool()
    labels = batch.get("labels", torch.full_like(ids, IGNORED))
    left = bool((~mask[:, 0]).any()) or (padding_side == "left" and bool(mask.all()))
    rows = []
    for row, own in enumerate(insertions):
        tokens, learned = ids[row][mask[row]].tolist(), labels[row][mask[row]].tolist()
        for insertion in own:
            tokens, learned = insert_into_row(tokens, insertion, bos_token_id=bos_token_id, labels=learned)
        rows.append((tokens, learned))
    width = max(len(tokens) for tokens, _ in rows)

    def padded(values: list[int], filler: int) -> list[int]:
        filling = [filler] * (width - len(values))
        return [*filling, *values] if left else [*values, *filling]

    columns = {
        "input_ids": [padded(tokens, pad_token_id) for tokens, _ in rows],
        "attention_mask": [padded([1] * len(tokens), 0) for tokens, _ in rows],
        "labels": [padded(learned, IGNORED) for _, learned in rows],
    }
    wanted = {"input_ids", "attention_mask", *batch}
    return {k: torch.tensor(v, dtype=torch.int64, device=ids.device) for k, v in columns.items() if k in wanted}
