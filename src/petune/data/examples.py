"""Rows rendered to text, whatever layout they came in."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final, overload


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a row's text; the tokens of a learned one carry labels."""

    text: str
    learned: bool
    virtual: tuple[int, ...] = ()
    """Token ids of virtual tokens, which stand here instead of text."""
    before_special: bool = False
    """Whether virtual tokens at the start stand even before the special tokens that the tokenizer adds."""


@dataclass(frozen=True, slots=True)
class Example:
    """One row, rendered to text."""

    origin: str
    """Where it comes from: ``a.jsonl:12`` (1-based physical line), ``a.parquet:row 12``, ``id[train]:12``."""
    segments: tuple[Segment, ...]
    """The whole text of the row, in pieces."""
    prompt: str
    """What the model is given at inference (chat template with its generation prompt, where one is used)."""
    target: str | None
    """The reference answer, stripped; None where the row has none."""
    choices_key: str | None
    """For classification rows the label's text; else None."""
    fields: Mapping[str, Any]
    """The row as read, under the layout's column names."""
    add_special_tokens: bool
    """False where a chat template has already written the special tokens."""
    lead: str | None = None
    """White space that the target's template starts with, or what a chat template writes between the prompt and an
    answer; None where the row has no such template."""
    words: Mapping[str, str] = field(default_factory=dict)
    """What stands for a label in the text, by label; a label that is not named stands for itself."""
    suffix: str | None = None
    """The text behind the answer, where a template says where the answer stands; else None, and it stands last."""


@final
class ExampleSet(Sequence[Example]):
    """The rendered rows of one source, in its order.

    Args:
        rows: the rows.
        source: file or hub id, as given.
        layout: name of the layout.
    """

    def __init__(self, rows: Sequence[Example], *, source: str, layout: str) -> None:
        self._rows = tuple(rows)
        self.source = source
        self.layout = layout

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Example]:
        return iter(self._rows)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> "ExampleSet": ...
    def __getitem__(self, index: int | slice) -> "Example | ExampleSet":
        if isinstance(index, slice):
            return ExampleSet(self._rows[index], source=self.source, layout=self.layout)
        return self._rows[index]
