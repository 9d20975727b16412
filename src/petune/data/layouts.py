"""The table of layouts: which columns each is known by, how a row is checked, and its default templates.

| layout | columns | learned |
|---|---|---|
| messages | messages; tools | assistant turns |
| conversations | conversations; system, tools | turns of gpt |
| alpaca | instruction, output; input | output |
| prompt-completion | prompt, completion; tools | completion; of turns, its assistant turns |
| text-label | text, label | label |
| tokens-tags | tokens, tags | tags |
| question-answer | question, answers; context | the first answer |
| text | text | the whole |
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from petune.data.answers import answer_starts, answer_texts
from petune.data.conversation import Conversation, parse_messages, parse_prompt_completion, parse_sharegpt
from petune.data.json_parser import kind
from petune.data.options import DataOptions
from petune.data.problems import RowProblem
from petune.data.rows import Rows
from petune.errors import DataError, nearest

UNANSWERABLE = "unanswerable"
"""The target of a question whose list of answers is empty."""

Slots = Mapping[str, Any]
"""What the templates of a layout fill in."""


@dataclass(frozen=True)
class Layout:
    """One way to lay out a row."""

    name: str
    prompt_columns: tuple[str, ...]
    """Columns every row must have."""
    target_columns: tuple[str, ...]
    """Columns a row must have as well where something is to be learned from it."""
    optional_columns: tuple[str, ...]
    parse: Callable[[Mapping[str, Any], bool], Conversation | Slots]
    """Checks a row (raises RowProblem); the flag says whether it must have a target."""
    template: str | None = None
    """Default prompt; None for turns. Rows that are parsed to turns do without."""
    target: str | None = None
    """Default target; None where the prompt template is all of the row."""

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns the layout knows."""
        return self.prompt_columns + self.target_columns + self.optional_columns

    def described(self) -> str:
        """Return name and columns, optional ones in brackets."""
        required = ", ".join(self.prompt_columns + self.target_columns)
        return f"{self.name} ({required}{''.join(f' [{name}]' for name in self.optional_columns)})"


def choose_layout(
    columns: tuple[str, ...], options: DataOptions, *, source: str, require_target: bool = True
) -> Layout:
    """Return the layout these columns have, or the one the user named.

    Raises:
        DataError: no layout, or more than one, fits.
    """
    if options.layout != "auto":
        return _named_layout(options.layout, columns, source, require_target)
    candidates = _candidates(columns, options.columns or {}, require_target)
    if options.template is not None and (options.target is not None or len(candidates) != 1):
        return LAYOUTS["text-label"] if candidates == [LAYOUTS["text-label"]] else TEMPLATE
    if len(candidates) == 1:
        return candidates[0]
    found = ", ".join(columns) or "none"
    if candidates:
        fits = " or ".join(layout.described() for layout in candidates)
        raise DataError(f"{source}: the columns {found} could be {fits}; say which with --layout {candidates[0].name}")
    known = "; ".join(layout.described() for layout in LAYOUTS.values())
    raise DataError(
        f"{source}: the columns {found} fit no layout; known are {known}. Map them, as in --columns "
        f"text={columns[0]}, or write the row yourself with --template and --target"
    )


def map_columns(
    rows: Rows, columns: Mapping[str, str] | None, *, has_template: bool = False, require_target: bool = True
) -> Rows:
    """Return rows in which each role of ``columns`` (role to column) is a column too.

    Without ``require_target`` the column of a target may be missing.

    Raises:
        DataError: a role is none of the layouts', or a column is not in the rows.
    """
    if not columns:
        return rows
    known = {name for layout in LAYOUTS.values() for name in layout.columns}
    for role, column in columns.items():
        if role not in known and not has_template:
            raise DataError(
                f"--columns maps '{role}', which no layout has.{nearest(role, known)} Roles: {', '.join(sorted(known))}"
            )
        may_be_missing = not require_target and any(role in layout.target_columns for layout in LAYOUTS.values())
        if column not in rows.columns and not may_be_missing:
            raise DataError(
                f"{rows.source}: --columns names '{column}' for '{role}', and there is no such column."
                f"{nearest(column, rows.columns)} Columns: {', '.join(rows.columns)}"
            )
    mapped = [{**row, **{role: row[column] for role, column in columns.items() if column in row}} for row in rows.rows]
    there = [role for role, column in columns.items() if column in rows.columns]
    return Rows(rows.source, rows.place, tuple(dict.fromkeys((*rows.columns, *there))), mapped, rows.numbers)


def _named_layout(name: str, columns: tuple[str, ...], source: str, require_target: bool) -> Layout:
    layout = LAYOUTS[name]
    missing = [column for column in _required(layout, require_target) if column not in columns]
    if missing:
        raise DataError(
            f"{source}: layout {name} needs the column {missing[0]}, and the columns are "
            f"{', '.join(columns)}.{nearest(missing[0], columns)} Map it, as in --columns "
            f"{missing[0]}={columns[0] if columns else 'name'}"
        )
    return layout


def _required(layout: Layout, require_target: bool) -> tuple[str, ...]:
    return layout.prompt_columns + (layout.target_columns if require_target else ())


def _candidates(columns: tuple[str, ...], roles: Mapping[str, str], require_target: bool) -> list[Layout]:
    """Return the layouts that fit: with a target before without, `text` only where no other does."""
    names = set(columns)
    fitting = [layout for layout in LAYOUTS.values() if names.issuperset(_required(layout, True))]
    if not fitting and not require_target:
        fitting = [layout for layout in LAYOUTS.values() if names.issuperset(layout.prompt_columns)]
        plain = [layout for layout in fitting if layout.name == "text"]
        fitting = plain or fitting
    mapped = [layout for layout in fitting if set(roles).issubset(layout.columns)]
    fitting = mapped if roles and mapped else fitting
    specific = [layout for layout in fitting if layout.name != "text"]
    return specific or fitting


def _parse_alpaca(row: Mapping[str, Any], require_target: bool) -> Slots:
    extra = _string(row, "input") if row.get("input") is not None else ""
    target = _string(row, "output") if require_target or row.get("output") is not None else None
    return {"instruction": _string(row, "instruction"), "input": extra, "output": target}


def _parse_prompt_completion(row: Mapping[str, Any], require_target: bool) -> Conversation | Slots:
    if any(isinstance(row.get(column), list | tuple) for column in ("prompt", "completion")):
        return parse_prompt_completion(row, require_target)
    has_target = require_target or row.get("completion") is not None
    return {
        "prompt": _string(row, "prompt"),
        "completion": _string(row, "completion") if has_target else None,
    }


def _parse_text_label(row: Mapping[str, Any], require_target: bool) -> Slots:
    text = _string(row, "text")
    label = row.get("label")
    if label is None and not require_target:
        return {"text": text, "label": None}
    if "label" not in row:
        raise RowProblem("no column 'label'", "give each row its label")
    label = label.strip() if isinstance(label, str) else label
    is_missing = isinstance(label, float) and not math.isfinite(label)  # how tables write a number that is not there
    if not isinstance(label, str | int | float) or label == "" or is_missing:
        got = "empty" if label == "" else str(label) if is_missing else kind(label)
        raise RowProblem(f"'label' is {got}, expected a string or a number", "give each row its label")
    return {"text": text, "label": str(label)}


def parse_tokens_tags(row: Mapping[str, Any], require_target: bool) -> Slots:
    """Return the words and, where they are there or required, the tags of a row.

    Raises:
        RowProblem: they are no lists of strings, or not equally many.
    """
    tokens = _strings(row, "tokens")
    if row.get("tags") is None and not require_target:
        return {"tokens": tokens, "tags": None}
    tags = _strings(row, "tags")
    if len(tokens) != len(tags):
        raise RowProblem(f"{len(tokens)} tokens and {len(tags)} tags", "give each token one tag")
    return {"tokens": tokens, "tags": tags}


def parse_question_answer(row: Mapping[str, Any], require_target: bool) -> Slots:
    """Return question, context, the answers with where each starts (None: not said), and the first as the target.

    Raises:
        RowProblem: one of them is not a string, or the answers are of an unknown form.
    """
    context = _string(row, "context") if row.get("context") is not None else ""
    question = _string(row, "question")
    if row.get("answers") is None and not require_target:
        return {"question": question, "context": context, "answer": None, "texts": None, "starts": None}
    texts = answer_texts(row.get("answers"))
    starts = answer_starts(row.get("answers"), len(texts))
    target = texts[0] if texts else UNANSWERABLE
    return {"question": question, "context": context, "answer": target, "texts": texts, "starts": starts}


def _parse_text(row: Mapping[str, Any], require_target: bool) -> Slots:
    return {"text": _string(row, "text")}


def _parse_anything(row: Mapping[str, Any], require_target: bool) -> Slots:
    return {}


def _string(row: Mapping[str, Any], column: str) -> str:
    if column not in row:
        raise RowProblem(f"no column '{column}'", "add it")
    value = row[column]
    if not isinstance(value, str):
        raise RowProblem(f"'{column}' is {kind(value)}, expected a string", "write it in quotes")
    return value


def _strings(row: Mapping[str, Any], column: str) -> list[str]:
    value = row.get(column)
    if isinstance(value, str):
        return value.split()
    if not isinstance(value, list) or not all(isinstance(item, str | int) for item in value):
        raise RowProblem(f"'{column}' is {kind(value)}, expected a list of strings", "write one string a token")
    return [str(item) for item in value]


TEMPLATE = Layout("template", (), (), (), _parse_anything)
"""Rows of any columns, rendered by the user's own templates."""

LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("messages", ("messages",), (), ("tools",), parse_messages),
        Layout("conversations", ("conversations",), (), ("system", "tools"), parse_sharegpt),
        Layout(
            "alpaca",
            ("instruction",),
            ("output",),
            ("input",),
            _parse_alpaca,
            template="Instruction: {{ instruction }}\n{% if input %}Input: {{ input }}\n{% endif %}Response:",
            target=" {{ output }}",
        ),
        Layout(
            "prompt-completion",
            ("prompt",),
            ("completion",),
            ("tools",),
            _parse_prompt_completion,
            template="{{ prompt }}",
            target="{{ completion }}",
        ),
        Layout(
            "text-label",
            ("text",),
            ("label",),
            (),
            _parse_text_label,
            template="{{ text }}\nLabel:",
            target=" {{ label }}",
        ),
        Layout(
            "tokens-tags",
            ("tokens",),
            ("tags",),
            (),
            parse_tokens_tags,
            template="{{ tokens | join(' ') }}\nTags:",
            target=" {{ tags | join(' ') }}",
        ),
        Layout(
            "question-answer",
            ("question",),
            ("answers",),
            ("context",),
            parse_question_answer,
            template="{% if context %}Context: {{ context }}\n{% endif %}Question: {{ question }}\nAnswer:",
            target=" {{ answer }}",
        ),
        Layout("text", ("text",), (), (), _parse_text, template="{{ text }}"),
    )
}
"""Every layout, by name."""
