import pytest

from petune.data.conversation import Conversation, parse_messages, parse_sharegpt
from petune.data.problems import RowProblem

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
