"""Conversations to text by the tokenizer's own chat template, and which characters of it the assistant wrote.

A template that marks its assistant turns (``{% generation %}``) is believed. For others the spans are found
by rendering the conversation up to each assistant turn (with the generation prompt) and up to its end, and
checking that both are prefixes of the whole. Where they are not, because a template writes a turn
differently once others follow, the turns' contents are marked with characters that occur nowhere else,
rendered, and found again. Where that fails too the row is a problem: labels are never left out in silence.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import jinja2

from petune.data.conversation import Conversation, arguments_of, with_arguments_read
from petune.data.examples import Segment
from petune.data.problems import RowProblem
from petune.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger("petune")

Messages = Sequence[Mapping[str, Any]]
Span = tuple[int, int]

_GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_OPEN, _CLOSE = "\uf8f1", "\uf8f2"
RENDER_ERRORS = (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What a chat template raises on turns that it cannot write."""


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """A conversation as text."""

    segments: tuple[Segment, ...]
    prompt: str
    target: str | None
    lead: str
    """What the template writes between the prompt and the content of any answer, such as an empty thought."""


@final
class ChatRenderer:
    """Writes conversations as one tokenizer's chat template does.

    Args:
        tokenizer: its chat template and special tokens are used.
        learn_all: every token is learned, not the assistant turns alone.

    Raises:
        DataError: the tokenizer has no chat template.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase | None", *, learn_all: bool) -> None:
        if tokenizer is None or tokenizer.chat_template is None:
            raise DataError(
                "the rows are to be written as chat turns, and this model's tokenizer has no chat template; "
                "use the chat (instruct) variant of the model, or --chat off (rows of turns then need "
                "--template and --target)"
            )
        self._tokenizer = tokenizer
        self._learn_all = learn_all
        self._has_seen_tools = False
        added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._special = tuple(dict.fromkeys((*added, *tokenizer.all_special_tokens)))

    def render(self, conversation: Conversation) -> RenderedChat:
        """Return the whole conversation, and the prompt and target of its last assistant turn.

        Where an answer is awaited the prompt is all there is, and there is no target.

        Raises:
            RowProblem: the template refuses the conversation, leaves calls of tools out, or its assistant turns cannot
                be found again.
        """
        read = with_arguments_read(conversation)
        if read != conversation:
            # Some templates add text to text, and refuse; where something else is wrong, that is said below.
            with suppress(RowProblem):
                rendered = self._written(read)
                text = "".join(segment.text for segment in rendered.segments)
                # Others write them as they are: Python's spelling of an object is no JSON.
                if not any(found and str(found) in text for found in arguments_of(read)):
                    return rendered
        return self._written(conversation)

    def _written(self, conversation: Conversation) -> RenderedChat:
        messages, tools = conversation.messages, conversation.tools
        whole, marked = self._render(messages, tools)
        turns = conversation.answers
        self._require_calls(conversation, whole, turns)
        self._look_for_tools(messages, tools, whole)
        asks = not turns or messages[-1]["role"] != "assistant"
        spans: list[Span] = []
        if self._learn_all:
            spans = [(0, len(whole))]
        elif turns:
            spans = self._marked_spans(conversation, whole, marked) or self._found_spans(conversation, whole, turns)
        segments = _segments(whole, spans)
        if not asks and not whole.rstrip().endswith(self._special) and self._tokenizer.eos_token:
            # This template ends no turn with a token, so nothing would teach the model to stop.
            segments = (*segments, Segment(self._tokenizer.eos_token, learned=True))
        if not turns:
            prompt = self._render(messages, tools, ask=True)[0]
            return RenderedChat(segments, prompt, None, self._lead(messages, tools, prompt))
        last = turns[-1]
        prompt = self._render(messages[:last], tools, ask=True)[0] if last else ""
        lead = self._lead(messages[:last], tools, prompt)
        return RenderedChat(segments, prompt, self._answer(messages[: last + 1], tools, prompt, lead), lead)

    def _require_calls(self, conversation: Conversation, whole: str, turns: Sequence[int]) -> None:
        """Make sure that the calls of tools are in the text: a template that knows none would teach empty answers."""
        messages, tools = conversation.messages, conversation.tools
        for turn in turns:
            if not messages[turn].get("tool_calls"):
                continue
            bare = {key: value for key, value in messages[turn].items() if key != "tool_calls"}
            try:
                without = self._render([*messages[:turn], bare, *messages[turn + 1 :]], tools)[0]
            except RowProblem:  # a turn without content is refused, so its calls matter
                continue
            if without == whole:
                raise RowProblem(
                    f"the chat template leaves the 'tool_calls' of {conversation.place(turn)} out of the text",
                    "use the chat template of a model that calls tools, or write the calls into the turn's content",
                )

    def _look_for_tools(self, messages: Messages, tools: Messages | None, whole: str) -> None:
        """Warn, of the first row with tools alone, that the template leaves them out."""
        if tools is None or self._has_seen_tools:
            return
        self._has_seen_tools = True
        with suppress(RowProblem):
            if self._render(messages, None)[0] == whole:
                logger.warning(
                    "the chat template of %s leaves the 'tools' of rows out, so the model is not told of them; use the"
                    " chat template of a model that calls tools",
                    self._tokenizer.name_or_path or "this tokenizer",
                )

    def _lead(self, messages: Messages, tools: Messages | None, prompt: str) -> str:
        """Return what stands between ``prompt`` and an answer's content; empty where that cannot be told."""
        if not messages:
            return ""
        try:
            text = self._render([*messages, {"role": "assistant", "content": _OPEN}], tools)[0]
        except RowProblem:
            return ""
        before, found, _ = text.partition(_OPEN)
        return before[len(prompt) :] if found and before.startswith(prompt) else ""

    def _answer(self, messages: Messages, tools: Messages | None, prompt: str, lead: str) -> str:
        """Return what the last turn says after ``prompt`` and ``lead``: its content, or its calls as text.

        Special tokens are no part of it, nor of the text that a model writes.
        """
        content = str(messages[-1]["content"]).strip()
        if not messages[-1].get("tool_calls"):
            return content
        text = self._render(messages, tools)[0]
        if not text.startswith(prompt):
            return content
        said = text[len(prompt) :].removeprefix(lead)
        return re.sub("|".join(map(re.escape, self._special)), "", said).strip()

    def _render(self, messages: Messages, tools: Messages | None, *, ask: bool = False) -> tuple[str, list[Span]]:
        """Return the text, and the spans that ``{% generation %}`` marks; ``ask`` ends it for an answer."""
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            template = self._tokenizer.get_chat_template(None, tools)
        except ValueError as error:
            raise DataError(f"the tokenizer's chat templates cannot be used: {error}; give --template") from error
        is_marked = _GENERATION.search(template) is not None
        try:
            texts, spans = render_jinja_template(
                conversations=[list(messages)],
                tools=None if tools is None else list(tools),
                chat_template=template,
                return_assistant_tokens_mask=is_marked and not ask,
                add_generation_prompt=ask,
                **self._tokenizer.special_tokens_map,
            )
        except RENDER_ERRORS as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise RowProblem(
                f"the chat template refuses the conversation: {reason}",
                "change the turns, or give --template",
            ) from error
        return texts[0], (spans[0] if spans else [])

    def _marked_spans(self, conversation: Conversation, whole: str, spans: list[Span]) -> list[Span]:
        """Return the template's own spans of the answers, each with the token that ends its turn."""
        messages, tools = conversation.messages, conversation.tools
        if spans and conversation.prompt_turns:
            # Spans of the prompt's own turns lie in its text; where it is not the front, the answers are searched for.
            given = self._render(messages[: conversation.answers[0]], tools)[0]
            spans = [span for span in spans if span[1] > len(given)] if whole.startswith(given) else []
        last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
        if not spans or all(whole[start:end].rstrip().endswith(self._special) for start, end in spans):
            return spans
        # At the end of a conversation no next turn begins: a special token there ends the turn.
        text, inner = self._render(messages[: last + 1], tools)
        rest = text[inner[-1][1] :] if inner else ""
        end_of_turn = next((token for token in self._special if rest.startswith(token)), "")
        extended = []
        for start, end in spans:
            ends_itself = whole[start:end].rstrip().endswith(self._special)
            more = len(end_of_turn) if not ends_itself and whole.startswith(end_of_turn, end) else 0
            extended.append((start, end + more))
        return extended

    def _found_spans(self, conversation: Conversation, whole: str, turns: Sequence[int]) -> list[Span]:
        messages, tools = conversation.messages, conversation.tools
        contents: dict[int, Span] | None = None
        spans: list[Span] = []
        for turn in turns:
            head = self._render(messages[:turn], tools, ask=True)[0] if turn else None
            tail = self._render(messages[: turn + 1], tools)[0]
            start = len(head) if head is not None and whole.startswith(head) else None
            end = self._turn_end(tail) if whole.startswith(tail) else None
            if start is None or end is None:
                if contents is None:
                    contents = self._content_spans(conversation, whole, turns)
                if turn not in contents:
                    raise RowProblem(
                        f"the chat template writes {conversation.place(turn)} differently once other turns follow, so "
                        "what the assistant wrote cannot be found in the text",
                        "end the conversation with that turn (one row for each answer), use a chat template "
                        "with {% generation %} marks, or --train-on all",
                    )
                start = contents[turn][0] if start is None else start
                end = contents[turn][1] if end is None else end
            spans.append((start, end))
        return spans

    def _turn_end(self, tail: str) -> int:
        """Return where the last turn ends: white space after its last special token is not its own."""
        text = tail.rstrip()
        return len(text) if text.endswith(self._special) else len(tail)

    def _content_spans(self, conversation: Conversation, whole: str, turns: Sequence[int]) -> dict[int, Span]:
        """Return the span of each assistant turn's content and end token; empty where not found."""
        messages, tools = conversation.messages, conversation.tools
        if _OPEN in whole or _CLOSE in whole:
            return {}
        for clean in (str, str.strip):
            marked = [
                {**message, "content": f"{_OPEN}{clean(message['content'])}{_CLOSE}"} if i in turns else message
                for i, message in enumerate(messages)
            ]
            try:
                text = self._render(marked, tools)[0]
            except RowProblem:
                continue
            pieces = re.split(f"[{_OPEN}{_CLOSE}]", text)
            if "".join(pieces) == whole and len(pieces) == 2 * len(turns) + 1:
                return self._with_turn_ends(whole, pieces, turns)
        return {}

    def _with_turn_ends(self, whole: str, pieces: Sequence[str], turns: Sequence[int]) -> dict[int, Span]:
        spans: dict[int, Span] = {}
        end = 0
        for number, turn in enumerate(turns):
            start = end + len(pieces[2 * number])
            end = start + len(pieces[2 * number + 1])
            token = next((token for token in self._special if whole.startswith(token, end)), "")
            spans[turn] = (start, end + len(token))
        return spans


def _segments(text: str, spans: Sequence[Span]) -> tuple[Segment, ...]:
    segments: list[Segment] = []
    done = 0
    for start, end in spans:
        segments += [Segment(text[done:start], learned=False), Segment(text[start:end], learned=True)]
        done = end
    segments.append(Segment(text[done:], learned=False))
    return tuple(segment for segment in segments if segment.text)
