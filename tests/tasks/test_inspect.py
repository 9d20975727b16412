import pytest

from petune.data.inspect import inspect_data
from petune.data.options import DataOptions
from petune.errors import DataError

FILMS = [{"text": f"film {n} was dull", "label": "negative"} for n in range(20)]


def test_the_report_of_a_file(write, tokenizer):
    path = write("films.jsonl", FILMS)
    report = inspect_data(DataOptions(data=path, validation_split=4), tokenizer)
    assert (report.source, report.layout) == (path, "text-label")
    assert (report.rows_read, report.rows_kept, report.max_length) == (16, 16, 4096)
    assert report.example.endswith(" was dull\nLabel:⟦ negative<|end|>⟧")
    assert 0 < report.label_share < 0.5


def test_a_conversation_is_shown_with_its_assistant_turns_marked(write, tokenizer_with):
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}] * 2
    report = inspect_data(DataOptions(data=write("chat.jsonl", [{"messages": turns}])), tokenizer_with("MARKED"))
    turn = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n⟦hi<|im_end|>⟧\n"
    assert report.example == turn * 2


def test_it_fails_as_a_run_would(write, tokenizer):
    path = write("films.jsonl", FILMS)
    with pytest.raises(DataError, match="20 of 20 rows are longer than 5 tokens"):
        inspect_data(DataOptions(data=path, max_length=5), tokenizer)
    with pytest.raises(DataError, match="more than the 8 positions of the model"):
        inspect_data(DataOptions(data=path, max_length=9), tokenizer, model_limit=8)
