from pathlib import Path

import pytest

from petune.data.loading import check_files, check_source, load_examples, split_indices
from petune.data.options import DataOptions
from petune.errors import DataError

PAIRS = [{"prompt": f"film {n}", "completion": f" number {n}"} for n in range(40)]
FILMS = [{"text": "a quiet joy", "label": "positive"}, {"text": "dull", "label": 0}]
CHAT = [{"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": " hi "}]}]


def text_of(example) -> str:
    return "".join(f"⟦{piece.text}⟧" if piece.learned else piece.text for piece in example.segments)


def load(path: str, tokenizer=None, **options):
    require_target = options.pop("require_target", True)
    which = options.pop("which", "train")
    given = DataOptions(data=path, **options)
    return load_examples(given, tokenizer, which=which, require_target=require_target)


@pytest.mark.parametrize(
    ("row", "text", "target"),
    [
        ({"prompt": "a", "completion": " b"}, "a⟦ b⟧", "b"),
        ({"text": "dull", "label": "x"}, "dull\nLabel:⟦ x⟧", "x"),
        (
            {"instruction": "Sum", "input": "1 2", "output": "3"},
            "Instruction: Sum\nInput: 1 2\nResponse:⟦ 3⟧",
            "3",
        ),
        ({"instruction": "Sum", "output": "3"}, "Instruction: Sum\nResponse:⟦ 3⟧", "3"),
        ({"tokens": ["a", "b"], "tags": ["X", "O"]}, "a b\nTags:⟦ X O⟧", "X O"),
        (
            {"context": "c", "question": "q", "answers": {"text": ["a"]}},
            "Context: c\nQuestion: q\nAnswer:⟦ a⟧",
            "a",
        ),
        ({"text": "all of it"}, "⟦all of it⟧", None),
    ],
)
def test_default_templates(write, row, text, target):
    (example,) = load(write("rows.jsonl", [row]))
    assert text_of(example) == text
    assert example.target == target
    assert example.prompt == (text.partition("⟦")[0] or row.get("text"))
    assert example.add_special_tokens
    assert dict(example.fields) == row


def test_labels_are_the_choices(write):
    examples = load(write("rows.jsonl", FILMS))
    assert [example.choices_key for example in examples] == ["positive", "0"]
    assert load(write("pairs.jsonl", PAIRS))[0].choices_key is None


def test_the_same_rows_from_every_kind_of_file(write, tmp_path):
    import json

    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(PAIRS), tmp_path / "rows.parquet")
    csv = "prompt,completion\n" + "".join(f"{row['prompt']},{row['completion']}\n" for row in PAIRS)
    paths = [
        write("rows.jsonl", PAIRS),
        write("rows.json", json.dumps(PAIRS)),
        write("rows.csv", csv),
        write("rows.tsv", csv.replace(",", "\t")),
        str(tmp_path / "rows.parquet"),
    ]
    texts = [[text_of(example) for example in load(path)] for path in paths]
    assert texts == [texts[0]] * 5


def test_own_templates(write):
    path = write("rows.jsonl", [{"review": "dull", "stars": 1}])
    (example,) = load(path, template="{{ review }} =>", target=" {{ stars }}")
    assert text_of(example) == "dull =>⟦ 1⟧"
    (example,) = load(path, columns={"text": "review", "label": "stars"}, target=" {{ stars }} stars")
    assert text_of(example) == "dull\nLabel:⟦ 1 stars⟧"
    (example,) = load(path, template="{{ review }}: {{ stars }}", train_on="all")
    assert text_of(example) == "⟦dull: 1⟧"


def test_train_on_all(write):
    (example,) = load(write("rows.jsonl", PAIRS[:1]), train_on="all")
    assert text_of(example) == "⟦film 0⟧⟦ number 0⟧"
    assert example.prompt == "film 0"


def test_messages_use_the_chat_template(write, tokenizer_with):
    (example,) = load(write("rows.jsonl", CHAT), tokenizer_with("CHATML"))
    assert text_of(example) == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n⟦ hi <|im_end|>⟧\n"
    assert example.target == "hi"
    assert not example.add_special_tokens


TURNS = [
    {
        "prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        "completion": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}],
    }
]


@pytest.mark.parametrize("name", ["CHATML", "MARKED"])
def test_prompts_and_completions_of_turns_are_chat_beside_those_of_text(write, tokenizer_with, name):
    turns, pair = load(write("rows.jsonl", [*TURNS, PAIRS[0]]), tokenizer_with(name))
    assert text_of(turns) == (
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
        "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n⟦d<|im_end|>⟧\n"
    )
    assert (turns.target, turns.add_special_tokens) == ("d", False)
    assert (text_of(pair), pair.add_special_tokens) == ("film 0⟦ number 0⟧", True)
    (everything,) = load(write("rows.jsonl", TURNS), tokenizer_with(name), train_on="all")
    assert text_of(everything) == f"⟦{text_of(turns).replace('⟦', '').replace('⟧', '')}⟧"


def test_tools_of_prompts_and_completions_reach_the_template(write, tokenizer_with):
    tokenizer = tokenizer_with("CHATML")
    tokenizer.chat_template = "{{ tools[0]['name'] }}\n" + tokenizer.chat_template
    (example,) = load(write("rows.jsonl", [{**TURNS[0], "tools": [{"name": "map"}]}]), tokenizer)
    assert text_of(example).startswith("map\n<|im_start|>user")


def test_a_prompt_of_turns_is_answered_where_its_completion_is_missing(write, tokenizer_with):
    path = write("rows.jsonl", [{"prompt": TURNS[0]["prompt"]}, TURNS[0]])
    bare, whole = load(path, tokenizer_with("CHATML"), require_target=False)
    assert bare.prompt == text_of(bare) + "<|im_start|>assistant\n"
    assert bare.prompt.endswith("assistant\nb<|im_end|>\n<|im_start|>assistant\n")
    assert (bare.target, whole.target) == (None, "d")


def test_own_templates_write_prompts_and_completions_of_turns(write):
    given = {"template": "{{ prompt[0].content }}:", "target": " {{ completion[-1].content }}"}
    for layout in ("auto", "prompt-completion"):
        (example,) = load(write("rows.jsonl", TURNS), layout=layout, **given)
        assert text_of(example) == "a:⟦ d⟧"


def test_chat_on_wraps_pairs(write, tokenizer_with):
    (example,) = load(write("rows.jsonl", FILMS[:1]), tokenizer_with("CHATML"), chat="on")
    assert text_of(example) == (
        "<|im_start|>user\na quiet joy\nLabel:<|im_end|>\n<|im_start|>assistant\n⟦positive<|im_end|>⟧\n"
    )
    assert example.choices_key == "positive"


def test_rows_to_predict(write, tokenizer_with):
    bare = write("rows.jsonl", [{"text": "dull"}])
    (example,) = load(bare, layout="text-label", require_target=False)
    assert (example.prompt, example.target, example.choices_key) == ("dull\nLabel:", None, None)
    (example,) = load(bare, template="{{ text }}:", target=" {{ stars }}", require_target=False)
    assert (example.prompt, example.target) == ("dull:", None)
    (example,) = load(bare, require_target=False)
    assert (example.prompt, example.target) == ("dull", None)
    (example,) = load(bare, tokenizer_with("CHATML"), layout="text-label", chat="on", require_target=False)
    assert example.prompt.endswith("Label:<|im_end|>\n<|im_start|>assistant\n")


def test_rows_to_predict_keep_a_target_they_have(write):
    first, second = load(write("rows.jsonl", [FILMS[0], {"text": "dull"}]), require_target=False)
    assert (first.target, second.target) == ("positive", None)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (CHAT, {"chat": "off"}, "--chat off leave no way to write them as text"),
        (CHAT, {"target": "x"}, "--target was given for turns (layout messages)"),
        (CHAT, {}, "this model's tokenizer has no chat template; use the chat"),
        (PAIRS, {"chat": "on"}, "no chat template"),
        (TURNS, {"chat": "off"}, "--chat off leave no way to write them as text"),
        (TURNS, {"target": " {{ completion }}"}, "--target was given for turns (layout prompt-completion)"),
        (TURNS, {"template": "{{ prompt }}"}, "(such as --target ' {{ completion[-1].content }}')"),
        (CHAT, {"template": "{{ messages }}"}, "(such as --target ' {{ messages[-1].content }}')"),
        (TURNS, {}, "this model's tokenizer has no chat template; use the chat"),
        ([{**TURNS[0], "completion": [{"role": "assistant", "content": " "}]}], {}, "not one of 1 rows has anything"),
        ([{"text": "a"}], {"chat": "on"}, "--chat on needs a prompt and a target"),
        ([{"a": "b"}], {"template": "{{ a }}"}, "--template alone does not say what is learned"),
        ([{"a": "b"}], {"template": "{{ b }}", "target": "x"}, "slot 'b', which is no column"),
        ([{"a": "b"}], {"template": "{{ a", "target": "x"}, "--template line 1"),
        ([{"a": "b"}, {"c": "d"}], {"template": "{{ a }}", "target": "x"}, ":2: --template needs column 'a'"),
    ],
)
def test_what_cannot_be_rendered(write, tokenizer, rows, options, message):
    with pytest.raises(DataError) as caught:
        load(write("rows.jsonl", rows), tokenizer, **options)
    assert message in str(caught.value)


def test_rows_the_chat_template_refuses_are_all_told(write, tokenizer_with):
    tokenizer = tokenizer_with("CHATML")
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    with pytest.raises(DataError) as caught:
        load(write("rows.jsonl", CHAT * 25), tokenizer)
    told = str(caught.value).splitlines()
    assert len(told) == 21
    assert told[-1] == "... and 5 more (25 problems in all)"


def test_problems_of_both_files_are_told_in_one_run(write):
    train = write("train.jsonl", '{"text": "a"}\n{"text": 5}\n')
    with pytest.raises(DataError) as caught:
        check_files(DataOptions(data=train, eval_data="nowhere.jsonl"))
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"{train}:2: 'text' is a number")
    assert second.startswith("there is no file nowhere.jsonl")


def test_no_data_at_all():
    with pytest.raises(DataError, match="no data was named; give --data"):
        check_files(DataOptions())


@pytest.mark.parametrize(("share", "size"), [(0.1, 4), (7, 7)])
def test_validation_rows_are_set_aside_the_same_each_time(write, share, size):
    path = write("rows.jsonl", PAIRS)
    train = load(path, validation_split=share)
    held_out = load(path, validation_split=share, which="eval")
    assert len(held_out) == size
    origins = [example.origin for example in (*train, *held_out)]
    assert sorted(origins) == sorted(f"{path}:{n}" for n in range(1, 41))
    # Flags that change how rows are written do not change which rows these are.
    again = load(path, validation_split=share, which="eval", template="{{ prompt }}?", max_length=9)
    assert [example.origin for example in again] == [example.origin for example in held_out]
    other = load_examples(DataOptions(data=path, validation_split=share), None, which="eval", seed=1)
    assert [example.origin for example in other] != [example.origin for example in held_out]


def test_validation_rows_from_a_file(write):
    train, held_out = write("train.jsonl", PAIRS), write("eval.jsonl", PAIRS[:3])
    examples = load_examples(DataOptions(data=train, eval_data=held_out), None, which="eval")
    assert len(examples) == 3
    assert examples.source == held_out
    assert len(load(train, which="eval")) == 0


@pytest.mark.parametrize(
    ("count", "share", "message"), [(10, 10, "from 1 to 9"), (10, 0.01, "0 of 10 rows"), (1, 0.5, "one row")]
)
def test_a_split_that_leaves_nothing(count, share, message):
    with pytest.raises(DataError, match=message):
        split_indices(count, share, 42, "rows.jsonl")


@pytest.mark.parametrize(("target", "lead"), [(" {{ label }}", " "), ("{{ label }}", ""), (None, " ")])
def test_rows_without_a_target_know_the_white_space_before_it(tmp_path: Path, target: str | None, lead: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "很好"}\n', encoding="utf-8")
    options = DataOptions(data=str(file), layout="text-label", target=target)
    (example,) = load_examples(options, None, require_target=False)
    assert (example.target, example.lead) == (None, lead)


def test_one_source_as_it_was_read_and_checked(write):
    path = write("rows.jsonl", [{"body": "a", "label": 1}, {"body": "b", "label": 2}])
    rows, checked = check_source(path, DataOptions(columns={"text": "body"}))
    assert rows.columns == ("body", "label")
    assert set(checked.rows.columns) == {"body", "label", "text"}
    assert [content.prompt for content in checked.contents] == ["a\nLabel:", "b\nLabel:"]


def test_all_problems_of_one_source_are_told(write):
    path = write("rows.jsonl", [{"text": 1, "label": "x"}, {"text": "a", "label": "y"}, {"text": "b", "label": ""}])
    with pytest.raises(DataError) as caught:
        check_source(path, DataOptions())
    assert [line.partition(": ")[0].rpartition(":")[2] for line in str(caught.value).splitlines()] == ["1", "3"]
