"""The data report without training."""

from collections.abc import Callable

import pytest

from petune.api import inspect_data
from petune.errors import DataError

Make = Callable[..., str]


def test_the_report_of_a_file(rows: Make, base_folder: Make) -> None:
    report = inspect_data(rows("reviews"), model=base_folder("llama"), validation_split=4)
    assert (report.layout, report.rows_read, report.rows_kept, report.max_length) == ("text-label", 20, 20, 128)
    assert report.example.endswith("\nLabel:⟦ neg</s>⟧")
    assert 0 < report.label_share < 0.5


def test_a_conversation_is_shown_with_its_assistant_turns_marked(rows: Make, base_folder: Make) -> None:
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}] * 2
    report = inspect_data(rows([{"messages": turns}]), model=base_folder("llama"))
    assert report.example == "<user>hello</s><assistant>⟦hi</s>⟧" * 2


@pytest.mark.parametrize(
    ("data", "task", "example"),
    [
        ("reviews", None, "<s>bad film 0</s> ⟦neg⟧"),
        ("entities", None, "<s> B⟦B-PER⟧ o b   e⟦O⟧ a t s </s>"),
        ("questions", None, "<s>who?</s>In 10 it was Anna who came.</s> ⟦Anna⟧"),
    ],
)
def test_an_encoder_reads_rows_for_what_they_are(
    data: str, task: str | None, example: str, rows: Make, base_folder: Make
) -> None:
    assert inspect_data(rows(data), model=base_folder("bert"), task=task).example == example


def test_an_encoder_decoder_reads_prompts_and_targets(rows: Make, base_folder: Make) -> None:
    assert inspect_data(rows("reviews"), model=base_folder("t5")).example == "bad film 0\nLabel:</s> ⟦neg</s>⟧"


def test_it_fails_as_a_run_would(rows: Make, base_folder: Make) -> None:
    path, folder = rows("reviews"), base_folder("llama")
    with pytest.raises(DataError, match="24 of 24 rows are longer than 5 tokens"):
        inspect_data(path, model=folder, max_length=5)
    with pytest.raises(DataError, match="129 is more than the model allows: it has 128"):
        inspect_data(path, model=folder, max_length=129)
