"""What a checked row says, before a tokenizer is known: turns, a prompt with its target, or plain text."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, final

from petune.data.conversation import Conversation
from petune.data.layouts import TEMPLATE, Layout, Slots
from petune.data.options import DataOptions
from petune.data.problems import RowProblem
from petune.data.templates import TextTemplate
from petune.errors import DataError, nearest


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt and what is to follow it; the text of the row is one after the other."""

    prompt: str
    target: str | None
    is_label: bool
    """Whether the target is a class label."""
    lead: str = ""
    """White space that every target starts with."""
    label: str | None = None
    """The label that a verbalizer's word in the target stands for."""
    words: Mapping[str, str] = field(default_factory=dict)
    """The targets, without white space around them, that stand for each label of a verbalizer."""
    suffix: str | None = None
    """The text behind the target, where the template says where the target stands; else None, and it stands last."""


@dataclass(frozen=True, slots=True)
class Text:
    """Text that is learned whole."""

    text: str


Content = Conversation | Pair | Text

_MARK: Final = "\ufdd0"
"""What the slot ``mask`` of a template becomes while it is filled in: a character that Unicode keeps out of texts."""


def has_something_to_learn(content: Content) -> bool:
    """Return whether the part of a row that is learned is more than white space."""
    if isinstance(content, Text):
        return bool(content.text.strip())
    if isinstance(content, Pair):
        return bool((content.target or "").strip())
    turns = (content.messages[turn] for turn in content.answers)
    return any(message["content"].strip() or message.get("tool_calls") for message in turns)


@final
class RowParser:
    """Checks the rows of one source and fills in the templates.

    Args:
        layout: what the columns mean.
        options: the user's own templates.
        columns: all columns of the source.
        require_target: every row must have something to learn.

    Raises:
        DataError: a template is not valid, or the options leave open what is to be learned.
    """

    def __init__(self, layout: Layout, options: DataOptions, columns: tuple[str, ...], *, require_target: bool) -> None:
        self._layout = layout
        self._options = options
        self._columns = columns
        self._require_target = require_target
        prompt = options.template if options.template is not None else layout.template
        target = options.target if options.target is not None else layout.target
        _check_choice(layout, options, prompt, target, require_target=require_target)
        self._verbalizer = options.verbalizer
        if self._verbalizer is not None:
            _check_verbalizer(layout, self._verbalizer)
        self._prompt = None if prompt is None else TextTemplate(prompt, "--template")
        self._target = None if target is None else TextTemplate(target, "--target")
        _check_slots(layout, self._prompt, self._target)
        self._lead = "" if target is None else target[: len(target) - len(target.lstrip())]

    def parse(self, row: Mapping[str, Any]) -> Content:
        """Return what a row says.

        Raises:
            RowProblem: this row cannot be used.
            DataError: a template has a slot that is no column, or the options do not fit a row of turns.
        """
        parsed = self._layout.parse(row, self._require_target)
        is_among_texts = isinstance(parsed, Conversation) and self._layout.template is not None
        return (self._of_turns if is_among_texts else self)._filled_in(parsed, row)

    @cached_property
    def _of_turns(self) -> "RowParser":
        """Return the parser of rows of turns in a layout whose other rows are texts: its templates are not theirs."""
        layout = replace(self._layout, template=None, target=None)
        return RowParser(layout, self._options, self._columns, require_target=self._require_target)

    def _filled_in(self, parsed: Conversation | Slots, row: Mapping[str, Any]) -> Content:
        if self._prompt is None:
            assert isinstance(parsed, Conversation)
            return parsed
        slots = row if isinstance(parsed, Conversation) else {**row, **parsed}
        prompt, *behind = self._prompt.render({"mask": _MARK, **slots}, self._columns).split(_MARK)
        if len(behind) > 1:
            raise DataError("--template has the slot {{ mask }} twice, and a row has one answer; keep one of them")
        if self._target is None:
            if behind:
                raise DataError("--template has the slot {{ mask }}, and nothing says what stands there; add --target")
            return Text(prompt)
        if self._verbalizer is not None:
            pair = self._verbalized(prompt, slots, self._verbalizer)
        else:
            pair = Pair(prompt, self._render_target(slots), self._layout.name == "text-label", self._lead)
        return _with_suffix(pair, behind[0]) if behind else pair

    def _verbalized(self, prompt: str, slots: Mapping[str, Any], verbalizer: Mapping[str, str]) -> Pair:
        assert self._target is not None
        label = slots["label"]
        if label is not None and label not in verbalizer:
            raise RowProblem(
                f"label '{label}' has no word in the verbalizer",
                f"add one; there are words for {', '.join(verbalizer)}.{nearest(label, verbalizer)}",
            )
        targets = {
            name: self._target.render({**slots, "label": word}, self._columns) for name, word in verbalizer.items()
        }
        words = {name: text.strip() for name, text in targets.items()}
        return Pair(prompt, targets.get(label), is_label=True, lead=self._lead, label=label, words=words)

    def _render_target(self, slots: Mapping[str, Any]) -> str | None:
        assert self._target is not None
        if self._require_target:
            return self._target.render(slots, self._columns)
        try:
            return self._target.render(slots, self._columns)
        except (RowProblem, DataError):
            # A row to predict may lack the columns of the target.
            return None


def _with_suffix(pair: Pair, suffix: str) -> Pair:
    """Return ``pair`` with text behind its target; white space between the two goes with the target, once."""
    prompt = pair.prompt.rstrip()
    lead = pair.lead or pair.prompt[len(prompt) :]
    target = pair.target if pair.target is None else lead + pair.target.lstrip()
    return replace(pair, prompt=prompt, target=target, lead=lead, suffix=suffix)


def _check_choice(
    layout: Layout, options: DataOptions, prompt: str | None, target: str | None, *, require_target: bool
) -> None:
    """Refuse options that leave open, or contradict, what the text of a row is."""
    if prompt is None:
        if options.target is not None:
            raise DataError(
                f"--target was given for turns (layout {layout.name}), whose assistant turns are the target; "
                "give --template too, or leave --target out"
            )
        if options.chat == "off":
            raise DataError(
                f"rows of turns (layout {layout.name}) and --chat off leave no way to write them as text; "
                "leave --chat out, or write the prompt and the target with --template and --target"
            )
        return
    learns_all = layout.name == "text" or options.train_on == "all"
    if target is None and not learns_all and require_target:
        raise DataError(
            "--template alone does not say what is learned; give the text to learn with --target (such as "
            f"--target ' {{{{ {_last_answer(layout)} }}}}'), or --train-on all"
        )
    if options.chat == "on" and target is None and require_target:
        raise DataError(
            "--chat on needs a prompt and a target to make turns of, and these rows are plain text; "
            "give --template and --target, or leave --chat out"
        )


def _check_slots(layout: Layout, prompt: TextTemplate | None, target: TextTemplate | None) -> None:
    """Refuse templates that make the same text of every row, or ask for its label without showing it."""
    if prompt is None or prompt.slots - {"mask"}:
        return
    if layout.name == "text-label" or target is None or not target.slots:
        raise DataError(
            "--template has no slot for a column, so it would be the same for every row; columns are written in double"
            " braces, such as {{ text }}"
        )


def _check_verbalizer(layout: Layout, verbalizer: Mapping[str, str]) -> None:
    """Refuse words that cannot stand for labels."""
    if layout.name != "text-label":
        raise DataError(
            f"--verbalizer gives words for labels, and rows of the layout {layout.name} have none; give rows with"
            " 'text' and 'label' (see --columns), or leave it out"
        )
    words = [word.strip() for word in verbalizer.values()]
    twice = next((word for word in words if words.count(word) > 1), None)
    if len(words) < 2 or "" in words or twice is not None:
        problem = f"'{twice}' stands for two labels" if twice else "it needs a word for each of at least two labels"
        raise DataError(f"--verbalizer {dict(verbalizer)}: {problem}; such as --verbalizer positive=great,negative=bad")


def _last_answer(layout: Layout) -> str:
    if layout is TEMPLATE:
        return "answer"
    column = (*layout.prompt_columns, *layout.target_columns)[-1]
    return f"{column}[-1].{'value' if column == 'conversations' else 'content'}"
