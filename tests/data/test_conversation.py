from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from petune.data.conversation import Conversation, parse_messages, parse_prompt_completion, parse_sharegpt
from petune.data.layouts import LAYOUTS
from petune.data.problems import RowProblem
from petune.data.reading import read_rows

USER = {"role": "user", "content": "hello"}
ASSISTANT = {"role": "assistant", "content": "good morning"}


def test_sharegpt_becomes_messages():
    row = {
        "system": "be brief",
        "conversations": [
            {"from": "human", "value": "hello", "weight": None},
            {"from": "gpt", "value": "good morning"},
            {"from": "observation", "value": "42"},
            {"from": "assistant", "value": "so"},
            {"role": "user", "content": "bye"},
        ],
    }
    assert parse_sharegpt(row, True).messages == (
        {"role": "system", "content": "be brief"},
        USER,
        ASSISTANT,
        {"role": "tool", "content": "42"},
        {"role": "assistant", "content": "so"},
        {"role": "user", "content": "bye"},
    )


def test_a_sharegpt_turn_is_what_its_own_keys_say():
    turns = [
        {"from": "human", "value": "hello", "role": "narrator", "name": "Ann"},
        {"from": "gpt", "value": "good morning", "content": "a note"},
    ]
    assert parse_sharegpt({"conversations": turns}, True).messages == ({**USER, "name": "Ann"}, ASSISTANT)


def test_a_system_text_of_another_kind_is_told():
    row = {"system": ["be brief"], "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    with pytest.raises(RowProblem, match=r"'system' is .*list.*, expected a string"):
        parse_sharegpt(row, True)


def test_text_parts_are_joined_and_nulls_left_out():
    parts = [{"type": "text", "text": "good "}, {"type": "text", "text": "morning"}]
    row = {"messages": [{**USER, "name": None}, {"role": "assistant", "content": parts, "tool_calls": None}]}
    assert parse_messages(row, True) == Conversation((USER, ASSISTANT))


def test_a_tool_call_needs_no_content_and_is_kept():
    call = {"role": "assistant", "tool_calls": [{"name": "map"}]}
    parsed = parse_messages({"messages": [USER, call], "tools": [{"name": "map"}]}, True)
    assert parsed.messages[1] == {**call, "content": ""}
    assert parsed.tools == ({"name": "map"},)


@pytest.mark.parametrize(
    ("tools", "expected"),
    [('[{"name": "map"}]', ({"name": "map"},)), ("[]", None), ("null", None), (" ", None), ("", None), ([], None)],
)
def test_tools_may_be_json_as_text(tools: object, expected: object) -> None:
    assert parse_messages({"messages": [USER, ASSISTANT], "tools": tools}, True).tools == expected


@pytest.mark.parametrize(
    ("tools", "got"),
    [("search", "a string"), ('{"name": "map"}', "an object"), ('["map"]', "a list"), ("3", "a number")],
)
def test_tools_that_are_no_objects_are_refused(tools: str, got: str) -> None:
    with pytest.raises(RowProblem, match=f"'tools' is {got}, expected a list of objects"):
        parse_messages({"messages": [USER, ASSISTANT], "tools": tools}, True)


def test_calls_of_tools_may_be_empty_or_json_as_text() -> None:
    turns = [{**ASSISTANT, "tool_calls": none} for none in ([], "[]", "", None)]
    assert parse_messages({"messages": [USER, *turns]}, True).messages == (USER, *[ASSISTANT] * 4)
    call = {"role": "assistant", "content": None, "tool_calls": '[{"name": "map"}]'}
    expected = {"role": "assistant", "content": "", "tool_calls": [{"name": "map"}]}
    assert parse_messages({"messages": [USER, call]}, True).messages[1] == expected


def test_what_files_of_one_shape_add_to_tools_and_calls_is_left_out(tmp_path: Path) -> None:
    tools = [
        {"name": name, "parameters": {"properties": {argument: {"type": "string", "enum": ["a"]}}}}
        for name, argument in (("map", "place"), ("clock", "zone"))
    ]
    calls = [{"name": "map", "arguments": {"place": "hills"}}, {"name": "clock", "arguments": {"zone": "a"}}]
    turns = [[USER, {"role": "assistant", "content": "", "tool_calls": [call]}] for call in calls]
    table = pyarrow.Table.from_pylist(
        [{"messages": own, "tools": [tool]} for own, tool in zip(turns, tools, strict=True)]
    )
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    rows = read_rows(str(tmp_path / "rows.parquet")).rows
    assert rows[0]["messages"][1]["tool_calls"][0]["arguments"] == {"place": "hills", "zone": None}
    for row, own, tool in zip(rows, turns, tools, strict=True):
        assert parse_messages(row, True) == Conversation(tuple(own), (tool,))
    text = '[{"name": "map", "arguments": {"place": null}}]'
    said = parse_messages({"messages": [USER, {**ASSISTANT, "tool_calls": text}]}, True).messages[1]
    assert said["tool_calls"] == [{"name": "map", "arguments": {"place": None}}], "text has a shape of its own"


@pytest.mark.parametrize(("calls", "got"), [("map", "a string"), ({"name": "map"}, "an object"), (["map"], "a list")])
def test_calls_of_tools_that_are_no_objects_are_refused(calls: object, got: str) -> None:
    with pytest.raises(RowProblem, match=rf"messages\[1\]\['tool_calls'\] is {got}, expected a list of objects"):
        parse_messages({"messages": [USER, {**ASSISTANT, "tool_calls": calls}]}, True)


def test_tools_that_hide_what_a_file_may_not_hold_are_refused() -> None:
    for tools in ('[{"name": "\\ud800"}]', "[" * 100_000):
        with pytest.raises(RowProblem):
            parse_messages({"messages": [USER, ASSISTANT], "tools": tools}, True)


def test_a_row_to_predict_needs_no_assistant_turn():
    assert parse_messages({"messages": [USER]}, False).messages == (USER,)


@pytest.mark.parametrize(
    ("turns", "require_target", "awaits"),
    [
        ([USER, ASSISTANT, USER], False, True),
        ([USER, ASSISTANT], False, False),
        ([USER, ASSISTANT, USER], True, False),
    ],
)
def test_rows_to_answer_await_the_turn_behind_the_last(turns, require_target, awaits):
    assert parse_messages({"messages": turns, "tools": [{"name": "add"}]}, require_target).awaits_answer is awaits


@pytest.mark.parametrize(("parse", "column"), [(parse_messages, "messages"), (parse_sharegpt, "conversations")])
def test_a_row_without_turns_is_told(parse, column):
    with pytest.raises(RowProblem, match=f"no column '{column}'"):
        parse({"text": "no turns here"}, True)


def test_prompt_and_completion_are_one_conversation_whose_answers_are_the_completions():
    row = {"prompt": [USER, ASSISTANT, USER], "completion": [ASSISTANT, USER, ASSISTANT], "tools": '[{"name": "map"}]'}
    turns = (USER, ASSISTANT, USER, ASSISTANT, USER, ASSISTANT)
    expected = Conversation(turns, ({"name": "map"},), prompt_turns=3)
    assert parse_prompt_completion(row, True) == expected
    assert parse_prompt_completion(row, False) == expected
    assert expected.answers == [3, 5]
    assert Conversation(turns).answers == [1, 3, 5]
    assert Conversation(turns, awaits_answer=True).answers == []


@pytest.mark.parametrize("prompt", [[USER], [USER, ASSISTANT]])
@pytest.mark.parametrize("more", [{}, {"completion": None}, {"completion": [ASSISTANT, USER]}])
def test_a_prompt_without_a_completion_awaits_its_answer(prompt, more):
    parsed = parse_prompt_completion({"prompt": prompt, **more}, False)
    assert parsed.messages == (*prompt, *(more.get("completion") or ()))
    assert parsed.awaits_answer
    assert parsed.answers == []


@pytest.mark.parametrize(
    ("prompt", "completion", "reason", "fix"),
    [
        (
            [USER],
            "good morning",
            "'completion' is a string and 'prompt' a list, expected two strings or two lists of turns",
            'write the completion as [{"role": "assistant", "content": ...}]',
        ),
        (
            "hello",
            [ASSISTANT],
            "'prompt' is a string and 'completion' a list, expected two strings or two lists of turns",
            'write the prompt as [{"role": "user", "content": ...}]',
        ),
        ([USER], None, "'completion' is null, expected a list of turns", "write a list of objects"),
        ([], [ASSISTANT], "'prompt' is an empty list", "give its turns"),
        (["hello"], [ASSISTANT], "prompt[0] is a string, expected an object", "write 'role' and 'content'"),
        ([USER], [ASSISTANT, {"role": "bot"}], "completion[1] has the unknown role 'bot'", "use one of system, user"),
        ([USER], [{"role": "assistant"}], "completion[0] has no 'content'", "give its text"),
        ([USER, ASSISTANT], [USER], "no assistant turn in 'completion', so nothing to learn", "add the answer"),
    ],
)
def test_prompts_and_completions_that_are_no_turns_are_told(prompt, completion, reason, fix):
    with pytest.raises(RowProblem) as caught:
        LAYOUTS["prompt-completion"].parse({"prompt": prompt, "completion": completion}, True)
    assert caught.value.reason.startswith(reason)
    assert caught.value.fix.startswith(fix)
