import json
import time

import pytest

from petune.data.loading import check_files
from petune.data.options import DataOptions
from petune.data.reading import read_rows
from petune.errors import DataError

GOOD = '{"text": "a quiet joy", "label": "positive"}'
CHAT = '{"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good morning"}]}'
DEEP = "[" * 10_000 + "]" * 10_000


def chat_with(turn: str) -> str:
    return f'{{"messages": [{{"role": "user", "content": "hello"}}, {turn}]}}'


def labelled(value: str) -> str:
    return f'{{"text": "a", "label": {value}}}'


# name: (line 2 of a file whose lines 1 and 3 are sound, what its problem says, the sound line)
BAD_LINES: dict[str, tuple[str | bytes, str, str]] = {
    "cut in a string": ('{"text": "a quiet jo', "the JSON is cut off", GOOD),
    "cut after a value": ('{"text": "a quiet joy"', "the JSON is cut off", GOOD),
    "cut after a colon": ('{"text":', "the JSON is cut off", GOOD),
    "single quotes": ("{'text': 'a'}", "not valid JSON at column 2", GOOD),
    "bare text": ("a quiet joy", "not valid JSON at column 1", GOOD),
    "two objects": (GOOD + " " + GOOD, "more text after the object", GOOD),
    "trailing comma": (GOOD + ",", "more text after the object", GOOD),
    "list": ("[1, 2]", "expected a JSON object, got a list", GOOD),
    "string": ('"a quiet joy"', "expected a JSON object, got a string", GOOD),
    "number": ("12", "expected a JSON object, got a number", GOOD),
    "null": ("null", "expected a JSON object, got null", GOOD),
    "boolean": ("true", "expected a JSON object, got a boolean", GOOD),
    "empty object": ("{}", "no column 'text'", GOOD),
    "bad UTF-8": (b'{"text": "caf\xe9", "label": "x"}', "not UTF-8: byte 14 of the line is 0xe9", GOOD),
    "surrogate bytes": (b'{"text": "\xed\xa0\x80", "label": "x"}', "not UTF-8", GOOD),
    "NUL byte": (b'{"text": "a\x00b", "label": "x"}', "a NUL byte", GOOD),
    "NUL escape": (r'{"text": "a\u0000b", "label": "x"}', "a NUL character", GOOD),
    "NUL in a key": (r'{"text": "a", "label": "x", "k\u0000": 1}', "a NUL character", GOOD),
    "lone surrogate": (r'{"text": "a\ud800b", "label": "x"}', r"a lone surrogate (\ud800)", GOOD),
    "control character": ('{"text": "a\tb", "label": "x"}', "not valid JSON", GOOD),
    "doubled key": ('{"text": "a", "text": "b", "label": "x"}', "key 'text' is there twice", GOOD),
    "doubled inner key": (
        '{"text": "a", "label": "x", "m": {"k": 1, "k": 2}}',
        "key 'k' is there twice",
        GOOD,
    ),
    "NaN": ('{"text": "a", "label": NaN}', "NaN is not a JSON value", GOOD),
    "Infinity": ('{"text": "a", "label": -Infinity}', "-Infinity is not a JSON value", GOOD),
    "number beyond floats": ('{"text": "a", "label": 1e999}', "is beyond any float", GOOD),
    "endless digits": (labelled("9" * 5000), "a number cannot be read", GOOD),
    "10,000 lists deep": (labelled(DEEP), "nested more than 100 levels", GOOD),
    "150 lists deep": (labelled("[" * 150 + "]" * 150), "nested more than 100", GOOD),
    "text is a number": ('{"text": 5, "label": "x"}', "'text' is a number, expected a string", GOOD),
    "text is null": ('{"text": null, "label": "x"}', "'text' is null, expected a string", GOOD),
    "label is null": ('{"text": "a", "label": null}', "'label' is null", GOOD),
    "label is missing": ('{"text": "a"}', "no column 'label'", GOOD),
    "label is empty": ('{"text": "a", "label": ""}', "'label' is empty", GOOD),
    "no role": (chat_with('{"content": "hi"}'), "messages[1] has no 'role'; give one of system, user", CHAT),
    "unknown role": (
        chat_with('{"role": "asistant", "content": "hi"}'),
        "unknown role 'asistant'; use one of system, user, assistant, tool. Did you mean 'assistant'?",
        CHAT,
    ),
    "role is a number": (chat_with('{"role": 1, "content": "hi"}'), "unknown role a number", CHAT),
    "no content": (chat_with('{"role": "assistant"}'), "messages[1] has no 'content'", CHAT),
    "content is a number": (
        chat_with('{"role": "assistant", "content": 3}'),
        "is a number, expected a",
        CHAT,
    ),
    "content is an image": (
        chat_with('{"role": "assistant", "content": [{"type": "image"}]}'),
        "has a part that is not text",
        CHAT,
    ),
    "turn is a string": (chat_with('"hi"'), "messages[1] is a string, expected an object", CHAT),
    "messages is a string": ('{"messages": "hi"}', "'messages' is a string, expected a list", CHAT),
    "no turns": ('{"messages": []}', "'messages' is an empty list", CHAT),
    "no assistant turn": ('{"messages": [{"role": "user", "content": "hi"}]}', "no assistant turn", CHAT),
    "tools is a string": (CHAT[:-1] + ', "tools": "search"}', "'tools' is a string", CHAT),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_is_named_with_reason_and_fix(write, case):
    line, reason, sound = BAD_LINES[case]
    raw = line if isinstance(line, bytes) else line.encode()
    path = write("rows.jsonl", b"\n".join([sound.encode(), raw, sound.encode()]) + b"\n")

    with pytest.raises(DataError) as caught:
        check_files(DataOptions(data=path))

    (told,) = str(caught.value).splitlines()
    assert told.startswith(f"{path}:2: ")
    assert reason in told
    assert "; " in told.removeprefix(f"{path}:2: "), "the problem names a fix"


def test_the_corpus_is_whole_and_all_of_it_is_told_in_one_run(write):
    assert len(BAD_LINES) >= 40
    classification = [line for line, _, sound in BAD_LINES.values() if sound is GOOD]
    lines = [GOOD.encode()] + [line if isinstance(line, bytes) else line.encode() for line in classification]
    path = write("rows.jsonl", b"\n".join(lines))

    with pytest.raises(DataError) as caught:
        check_files(DataOptions(data=path))

    told = str(caught.value).splitlines()
    count = len(classification)
    assert [line.split(": ")[0] for line in told[:20]] == [f"{path}:{n}" for n in range(2, 22)]
    assert told[20:] == [f"... and {count - 20} more ({count} problems in all)"]


def test_blank_lines_count_as_physical_lines(write):
    path = write("rows.jsonl", f"\n{GOOD}\n\n   \n{{\n")
    with pytest.raises(DataError, match=r"rows.jsonl:5: the JSON is cut off"):
        read_rows(path)
    assert read_rows(write("sound.jsonl", f"\n{GOOD}\n\n{GOOD}")).numbers == [2, 4]


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + GOOD.encode() + b"\n" + GOOD.encode(),
        GOOD.encode() + b"\r\n" + GOOD.encode() + b"\r\n",
        f" {GOOD}\t\n{GOOD}  ".encode(),
    ],
    ids=["byte order mark", "CRLF", "space around"],
)
def test_harmless_oddities_are_read(write, content):
    rows = read_rows(write("rows.jsonl", content))
    assert list(rows.rows) == [json.loads(GOOD)] * 2


def test_escapes_of_whole_pairs_are_read(write):
    rows = read_rows(write("rows.jsonl", r'{"text": "\ud83d\ude00 caf\u00e9"}'))
    assert rows.rows[0]["text"] == "😀 café"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty (0 bytes)"),
        (b"\n \n", "no rows"),
        (b"\xef\xbb\xbf", "no rows"),
        (GOOD.encode("utf-16"), "rows.jsonl:1: the file is UTF-16; save it as UTF-8"),
        (b'[\n{"text": "a"}\n]', "one JSON document over many lines"),
        (b'{\n"text": "a"\n}', "rename the file to .json"),
        (b'{"text": ""}\n{"text": "  "}', "not one of 2 rows has anything to learn"),
        (b'{"prompt": "a", "completion": ""}', "not one of 1 rows has anything to learn"),
    ],
)
def test_a_file_that_is_wrong_as_a_whole(write, content, message):
    with pytest.raises(DataError) as caught:
        check_files(DataOptions(data=write("rows.jsonl", content)))
    assert message in str(caught.value)


def test_a_line_of_100_megabytes_is_a_problem_of_its_own_and_is_not_held(write, tmp_path):
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:
        file.write(GOOD.encode() + b"\n" + b'{"text": "')
        for _ in range(100):
            file.write(b"a" * 2**20)
        file.write(b'"}\n{"text": 5, "label": "x"}\n')

    started = time.process_time()
    with pytest.raises(DataError) as caught:
        check_files(DataOptions(data=str(path)))

    assert time.process_time() - started < 5
    first, second = str(caught.value).splitlines()
    assert first == f"{path}:2: the line has 100.0 MiB, the limit is 16 MiB; split the row or leave it out"
    assert second.startswith(f"{path}:3: 'text' is a number")


@pytest.mark.parametrize("bad", [False, True])
def test_100_000_lines_in_five_seconds(write, bad):
    good = [f'{{"text": "film number {n} was a quiet joy", "label": "positive"}}' for n in range(100_000)]
    if bad:
        good[1::2] = ['{"text": "film'] * 50_000
    path = write("rows.jsonl", "\n".join(good))

    started = time.process_time()
    if bad:
        with pytest.raises(DataError, match=r"and 49,980 more \(50,000 problems in all\)"):
            check_files(DataOptions(data=path))
    else:
        assert len(check_files(DataOptions(data=path)).train.contents) == 100_000
    assert time.process_time() - started < 5


def test_a_json_list_knows_the_line_of_each_element(write):
    path = write("rows.json", '[\n  {"text": "a"},\n\n  {\n    "text":\n    "b"\n  }, {"text": "c"}\n]\n')
    rows = read_rows(path)
    assert [row["text"] for row in rows.rows] == ["a", "b", "c"]
    assert rows.numbers == [2, 4, 7]
    assert rows.origin(1) == f"{path}:4"


def test_rows_of_one_line_are_told_apart(write):
    path = write("rows.json", '[{"text": "a"}, {"text": "b"},\n{"text": "c"}]')
    rows = read_rows(path)
    assert [rows.origin(i) for i in range(3)] == [f"{path}:row {n}" for n in (1, 2, 3)]


def test_a_json_file_of_one_object_a_line_is_read(write):
    rows = read_rows(write("rows.json", f"{GOOD}\n{GOOD}\n"))
    assert rows.numbers == [1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "no rows"),
        ('{"data": [\n1]}', ":1: expected a list of objects"),
        ("hello", ":1: expected a list of objects"),
        ('\n\n{"text":\n "a"}', ":3: expected a list of objects"),
        ('[{"text": "a"},\n 5]', ":2: expected a JSON object, got a number"),
        ('[{"text": "a"},\n {"text": }]', ":2: not valid JSON at column 11"),
        ('[{"text": "a"},\n]', ":2: not valid JSON at column 1"),
        ('[{"text": "a"}\n {"text": "b"}]', ":1: expected ',' or ']' after this element"),
        ('[{"text": "a"}', ":1: expected ',' or ']' after this element"),
        ('[{"text": "a"}]\nmore', ":2: text after the end of the list"),
        ('[{"text": "a",\n "text": "b"}, 5]', ":1: key 'text' is there twice"),
        ("[\n" + DEEP + "]", ":2: nested more than 100 levels"),
        (b'[\n{"text": "caf\xe9"}]', ":2: not UTF-8: byte 0xe9"),
        (b'[\n\n{"text": "\x00"}]', ":3: a NUL byte"),
    ],
)
def test_bad_json_files(write, content, message):
    with pytest.raises(DataError) as caught:
        read_rows(write("rows.json", content))
    assert message in str(caught.value)
