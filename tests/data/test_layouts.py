import pytest

from petune.data.layouts import LAYOUTS, TEMPLATE, choose_layout, map_columns
from petune.data.options import DataOptions
from petune.data.problems import RowProblem
from petune.data.rows import Rows
from petune.errors import DataError

COLUMNS = {
    "messages": ("messages",),
    "conversations": ("id", "conversations", "system"),
    "alpaca": ("instruction", "input", "output", "text"),
    "prompt-completion": ("prompt", "completion"),
    "text-label": ("idx", "text", "label"),
    "tokens-tags": ("tokens", "tags"),
    "question-answer": ("id", "title", "context", "question", "answers"),
    "text": ("text", "url"),
}


def choose(names: tuple[str, ...], *, require_target: bool = True, **options: object):
    given = DataOptions(data="rows.jsonl", **options)
    return choose_layout(names, given, source="rows.jsonl", require_target=require_target)


def rows(*given: dict[str, object]) -> Rows:
    return Rows("rows.jsonl", "rows.jsonl:", tuple(given[0]), given, range(1, len(given) + 1))


def test_every_layout_is_recognised_from_its_columns():
    assert COLUMNS.keys() == LAYOUTS.keys()
    assert {name: choose(columns).name for name, columns in COLUMNS.items()} == {name: name for name in COLUMNS}


def test_unknown_columns_list_what_was_found_what_is_known_and_what_to_do():
    with pytest.raises(DataError) as caught:
        choose(("review", "stars"))
    told = str(caught.value)
    assert told.startswith("rows.jsonl: the columns review, stars fit no layout; known are messages (messages")
    assert all(name in told for name in LAYOUTS)
    assert "--columns text=review" in told
    assert "--template and --target" in told


def test_ambiguous_columns():
    with pytest.raises(DataError) as caught:
        choose(("prompt", "completion", "messages"))
    assert "could be messages (messages [tools]) or prompt-completion (prompt, completion [tools])" in str(caught.value)
    assert "--layout messages" in str(caught.value)
    assert choose(("prompt", "completion", "messages"), layout="prompt-completion").name == "prompt-completion"
    mapped = {"prompt": "prompt"}
    assert choose(("prompt", "completion", "messages"), columns=mapped).name == "prompt-completion"


def test_a_layout_by_name_needs_its_columns():
    with pytest.raises(DataError, match=r"layout text-label needs the column label, and the columns are text, lable"):
        choose(("text", "lable"), layout="text-label")
    assert choose(("text",), layout="text-label", require_target=False).name == "text-label"


def test_rows_to_predict_may_lack_the_target():
    assert choose(("instruction",), require_target=False).name == "alpaca"
    assert choose(("question", "context"), require_target=False).name == "question-answer"
    assert choose(("text",), require_target=False).name == "text"
    with pytest.raises(DataError, match="fit no layout"):
        choose(("instruction",))


def test_templates_take_any_columns():
    assert choose(("a", "b"), template="{{ a }}", target="{{ b }}") is TEMPLATE
    assert choose(("messages",), template="{{ messages }}", target="x") is TEMPLATE
    assert choose(("text", "label"), template="{{ text }}", target="{{ label }}").name == "text-label"
    assert choose(("prompt", "completion"), template="{{ prompt }}").name == "prompt-completion"


def test_columns_are_mapped_and_keep_their_own_names():
    mapped = map_columns(rows({"review": "dull", "stars": 1}), {"text": "review", "label": "stars"})
    assert mapped.columns == ("review", "stars", "text", "label")
    assert mapped.rows[0] == {"review": "dull", "stars": 1, "text": "dull", "label": 1}
    assert map_columns(rows({"text": "a"}), None).rows[0] == {"text": "a"}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"text": "revew"},
            "--columns names 'revew' for 'text', and there is no such column. Did you mean 'review'?",
        ),
        (
            {"txt": "review"},
            "--columns maps 'txt', which no layout has. Did you mean 'text'? Roles: answers, ",
        ),
    ],
)
def test_columns_that_cannot_be_mapped(columns, message):
    with pytest.raises(DataError) as caught:
        map_columns(rows({"review": "dull", "stars": 1}), columns)
    assert message in str(caught.value)


def test_a_template_may_name_its_own_roles():
    assert map_columns(rows({"review": "dull"}), {"x": "review"}, has_template=True).rows[0]["x"] == "dull"


@pytest.mark.parametrize(
    ("layout", "row", "slots"),
    [
        ("text-label", {"text": "a", "label": 3}, {"label": "3"}),
        ("text-label", {"text": "a", "label": True}, {"label": "True"}),
        ("tokens-tags", {"tokens": "a b", "tags": "X O"}, {"tokens": ["a", "b"], "tags": ["X", "O"]}),
        ("tokens-tags", {"tokens": ["a"], "tags": [0]}, {"tags": ["0"]}),
        ("question-answer", {"question": "q", "answers": "a"}, {"answer": "a", "context": ""}),
        ("question-answer", {"question": "q", "answers": ["a", "b"]}, {"answer": "a"}),
        (
            "question-answer",
            {"question": "q", "answers": {"text": ["a"], "answer_start": [0]}},
            {"answer": "a"},
        ),
        ("question-answer", {"question": "q", "answers": [{"text": "a"}]}, {"answer": "a"}),
        ("question-answer", {"question": "q", "answers": {"text": []}}, {"answer": "unanswerable"}),
        ("alpaca", {"instruction": "i", "input": None, "output": "o"}, {"input": ""}),
    ],
)
def test_values_are_made_plain(layout, row, slots):
    parsed = LAYOUTS[layout].parse(row, True)
    assert {name: parsed[name] for name in slots} == slots


@pytest.mark.parametrize(
    ("layout", "row", "reason"),
    [
        ("alpaca", {"instruction": "i"}, "no column 'output'"),
        ("alpaca", {"instruction": "i", "input": 5, "output": "o"}, "'input' is a number, expected a string"),
        ("prompt-completion", {"prompt": 5, "completion": "b"}, "'prompt' is a number, expected a string"),
        ("prompt-completion", {"prompt": "a", "completion": None}, "'completion' is null"),
        ("tokens-tags", {"tokens": ["a", "b"], "tags": ["X"]}, "2 tokens and 1 tags"),
        ("tokens-tags", {"tokens": ["a"], "tags": None}, "'tags' is null, expected a list of strings"),
        ("question-answer", {"question": "q", "answers": 5}, "'answers' is a number"),
        (
            "question-answer",
            {"question": "q", "answers": [5]},
            "'answers' is a list, expected a string, a list of",
        ),
        ("text-label", {"text": "a", "label": ["x"]}, "'label' is a list"),
        ("text-label", {"text": "a", "label": float("nan")}, "'label' is nan, expected a string or a number"),
        ("conversations", {"conversations": [{"from": "bot", "value": "a"}]}, "unknown from 'bot'"),
    ],
)
def test_rows_that_do_not_fit_their_layout(layout, row, reason):
    with pytest.raises(RowProblem) as caught:
        LAYOUTS[layout].parse(row, True)
    assert reason in caught.value.reason
    assert caught.value.fix


def test_rows_to_predict_may_lack_the_column_that_a_target_is_mapped_from():
    mapped = map_columns(rows({"review": "dull"}), {"text": "review", "label": "stars"}, require_target=False)
    assert mapped.columns == ("review", "text")
    with pytest.raises(DataError, match="--columns names 'revew' for 'text'"):
        map_columns(rows({"review": "dull"}), {"text": "revew", "label": "stars"}, require_target=False)


def test_a_label_is_told_without_the_blanks_around_it():
    parse = LAYOUTS["text-label"].parse
    assert parse({"text": "good film", "label": " positive "}, True) == {"text": "good film", "label": "positive"}
    with pytest.raises(RowProblem, match="'label' is empty"):
        parse({"text": "good film", "label": "  "}, True)
