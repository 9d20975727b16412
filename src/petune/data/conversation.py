"""Chat turns of a row: ``messages``, sharegpt's ``conversations``, ``prompt`` and ``completion``, made one."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from petune.data.json_parser import check_value, kind, shortened
from petune.data.problems import RowProblem
from petune.errors import nearest

ROLES = ("system", "user", "assistant", "tool")
_SHAREGPT_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "model": "assistant",
    "function": "tool",
    "observation": "tool",
    **{role: role for role in ROLES},
}


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns with ``role`` and ``content``, and the tools the model may call."""

    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...] | None = None
    awaits_answer: bool = False
    """Whether the turn behind the last is asked for, and none of those before it is to be learned or compared."""
    prompt_turns: int = 0
    """How many turns at the beginning are given: none of them is to be learned or compared, whoever says it."""

    @property
    def answers(self) -> list[int]:
        """Return which turns are to be learned and compared."""
        given = len(self.messages) if self.awaits_answer else self.prompt_turns
        return [i for i, message in enumerate(self.messages) if i >= given and message["role"] == "assistant"]

    def place(self, turn: int) -> str:
        """Return where one of the answers stands in the row, for errors."""
        return f"completion[{turn - self.prompt_turns}]" if self.prompt_turns else f"messages[{turn}]"


def parse_messages(row: Mapping[str, Any], require_target: bool) -> Conversation:
    """Read ``messages``: a list of objects with ``role`` and ``content``.

    Raises:
        RowProblem: a turn is malformed, or there is no assistant turn to learn.
    """
    return _conversation(_messages(row, "messages"), row, require_target)


def parse_prompt_completion(row: Mapping[str, Any], require_target: bool) -> Conversation:
    """Read ``prompt`` and ``completion``, both lists as ``messages`` is: the answers are the completion's alone.

    Raises:
        RowProblem: a turn is malformed, one of the two is a string, or the completion has no assistant turn to learn.
    """
    for column, other, role in (("prompt", "completion", "user"), ("completion", "prompt", "assistant")):
        if isinstance(row.get(column), str):
            raise RowProblem(
                f"'{column}' is a string and '{other}' a list, expected two strings or two lists of turns",
                f'write the {column} as [{{"role": "{role}", "content": ...}}]',
            )
    prompt = _messages(row, "prompt")
    has_completion = require_target or row.get("completion") is not None
    completion = _messages(row, "completion") if has_completion else []
    return _conversation([*prompt, *completion], row, require_target, prompt_turns=len(prompt))


def parse_sharegpt(row: Mapping[str, Any], require_target: bool) -> Conversation:
    """Read ``conversations``: objects with ``from`` and ``value``, and an optional ``system`` column.

    Raises:
        RowProblem: a turn is malformed, or there is no assistant turn to learn.
    """
    messages: list[Mapping[str, Any]] = []
    system = row.get("system")
    if system is not None and not isinstance(system, str):
        raise RowProblem(f"'system' is {kind(system)}, expected a string", "write it in quotes")
    if system:
        messages.append({"role": "system", "content": system})
    for i, turn in enumerate(_turn_list(row, "conversations")):
        place = f"conversations[{i}]"
        if isinstance(turn, Mapping) and "from" not in turn and "role" in turn:
            messages.append(_turn(turn, place, "role", "content", dict.fromkeys(ROLES)))
        else:
            messages.append(_turn(turn, place, "from", "value", _SHAREGPT_ROLES))
    return _conversation(messages, row, require_target)


def with_arguments_read(conversation: Conversation) -> Conversation:
    """Return the conversation with arguments of calls as objects where they are JSON as text, as OpenAI writes them.

    Most templates write the arguments as JSON, which would put such a text in quotes once more.
    """
    messages = (
        {**message, "tool_calls": [_with_arguments(call) for call in message["tool_calls"]]}
        if message.get("tool_calls")
        else message
        for message in conversation.messages
    )
    return replace(conversation, messages=tuple(messages))


def arguments_of(conversation: Conversation) -> list[Any]:
    """Return the arguments of all calls, as they are."""
    calls = [call for message in conversation.messages for call in message.get("tool_calls") or ()]
    return [
        (call["function"] if isinstance(call.get("function"), Mapping) else call).get("arguments") for call in calls
    ]


def _with_arguments(call: Mapping[str, Any]) -> Mapping[str, Any]:
    function, arguments = call.get("function"), call.get("arguments")
    if isinstance(function, Mapping):
        return {**call, "function": _with_arguments(function)}
    found = _parsed(arguments) if isinstance(arguments, str) else None
    return {**call, "arguments": found} if isinstance(found, dict) else call


def _messages(row: Mapping[str, Any], column: str) -> list[Mapping[str, Any]]:
    roles = dict.fromkeys(ROLES)
    return [_turn(turn, f"{column}[{i}]", "role", "content", roles) for i, turn in enumerate(_turn_list(row, column))]


def _turn_list(row: Mapping[str, Any], column: str) -> list[Any]:
    if column not in row:
        raise RowProblem(f"no column '{column}'", "give the turns, as other rows do")
    value = row[column]
    if not isinstance(value, list | tuple):
        raise RowProblem(f"'{column}' is {kind(value)}, expected a list of turns", "write a list of objects")
    if not value:
        raise RowProblem(f"'{column}' is an empty list", "give its turns, each with who says what")
    return list(value)


def _turn(turn: Any, place: str, role_key: str, content_key: str, roles: Mapping[str, str | None]) -> Mapping[str, Any]:
    if not isinstance(turn, Mapping):
        raise RowProblem(f"{place} is {kind(turn)}, expected an object", f"write '{role_key}' and '{content_key}'")
    # Parquet and hub files write a key that a turn does not have as null.
    given = {key: value for key, value in turn.items() if value is not None}
    choices = ", ".join(roles)
    if role_key not in given:
        raise RowProblem(f"{place} has no '{role_key}'", f"give one of {choices}")
    role = given.pop(role_key)
    if not isinstance(role, str) or role not in roles:
        got = f"'{shortened(role)}'" if isinstance(role, str) else kind(role)
        raise RowProblem(
            f"{place} has the unknown {role_key} {got}",
            f"use one of {choices}.{nearest(str(role)[:40], roles)}",
        )
    name = roles[role] or role
    content = given.pop(content_key, None)
    calls = _objects(given.pop("tool_calls", None), f"{place}['tool_calls']", "write one object a call")
    if calls is not None:
        given["tool_calls"] = list(calls)
    if content is None and not (name == "assistant" and calls):
        raise RowProblem(f"{place} has no '{content_key}'", "give its text")
    own = {"role": name, "content": _text(content, f"{place}['{content_key}']")}
    return {**own, **{key: value for key, value in given.items() if key not in own}}


def _text(content: Any, place: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise RowProblem(f"{place} is {kind(content)}, expected a string", "write the text of the turn")
    texts = []
    for part in content:
        if not (isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)):
            raise RowProblem(f"{place} has a part that is not text", 'keep parts {"type": "text", "text": ...} only')
        texts.append(part["text"])
    return "".join(texts)


def _conversation(
    messages: list[Mapping[str, Any]], row: Mapping[str, Any], require_target: bool, *, prompt_turns: int = 0
) -> Conversation:
    ends_with_answer = len(messages) > prompt_turns and messages[-1]["role"] == "assistant"
    tools = _objects(row.get("tools"), "'tools'", "write one JSON schema a tool")
    conversation = Conversation(tuple(messages), tools, not (require_target or ends_with_answer), prompt_turns)
    if require_target and not conversation.answers:
        where = " in 'completion'" if prompt_turns else ""
        raise RowProblem(f"no assistant turn{where}, so nothing to learn", "add the answer as an assistant turn")
    return conversation


def _objects(given: Any, what: str, fix: str) -> tuple[Mapping[str, Any], ...] | None:
    """Return tools or calls of them, a list or JSON as text: files of one shape for all rows can hold no others.

    An empty list, with which such files say that there are none, is none: templates ask whether the key is there. So
    is a key that is null, such as each argument of the other tools.
    """
    objects = _parsed(given) if isinstance(given, str) else _without_nulls(given)
    if objects is None or objects == []:
        return None
    if not isinstance(objects, list) or not all(isinstance(each, Mapping) for each in objects):
        raise RowProblem(f"{what} is {kind(objects)}, expected a list of objects", fix)
    return tuple(objects)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(own) for key, own in value.items() if own is not None}
    return [_without_nulls(own) for own in value] if isinstance(value, list) else value


def _parsed(text: str) -> Any:
    """Return what ``text`` says as JSON, and nothing where it is blank; what is none stays as it is."""
    try:
        value = json.loads(text) if text.strip() else None
    except (ValueError, RecursionError):
        return text
    problem = check_value(value)
    if problem is not None:
        raise problem
    return value
