import csv

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from petune.data.reading import read_rows
from petune.errors import DataError


def test_csv_records_know_their_first_physical_line(write):
    path = write("rows.csv", 'text,label\r\n"two\r\nlines",a\r\n\r\nplain,b\r\n"a ""quote"", and",c\r\n')
    rows = read_rows(path)
    assert list(rows.rows) == [
        {"text": "two\r\nlines", "label": "a"},
        {"text": "plain", "label": "b"},
        {"text": 'a "quote", and', "label": "c"},
    ]
    assert rows.numbers == [2, 5, 6]
    assert rows.columns == ("text", "label")


def test_a_byte_order_mark_is_no_part_of_the_header(write):
    assert read_rows(write("rows.csv", b"\xef\xbb\xbftext\nhello\n")).columns == ("text",)


def test_tsv(write):
    assert list(read_rows(write("rows.tsv", "text\tlabel\na, b\tc\n")).rows) == [{"text": "a, b", "label": "c"}]


def test_all_bad_records_are_told_in_one_run(write):
    path = write("rows.csv", b'text,label\na,b,c\nfine,x\nonly\ncaf\xe9,x\na\x00,x\n"a"b,x\nfine,x\n')
    with pytest.raises(DataError) as caught:
        read_rows(path)
    told = str(caught.value).splitlines()
    assert [line.removeprefix(f"{path}:").split(";")[0] for line in told] == [
        "2: 3 fields, and the header names 2",
        "4: 1 fields, and the header names 2",
        "5: not UTF-8: byte 4 of the line is 0xe9",
        "6: a NUL byte (byte 2 of the line)",
        "7: ',' expected after '\"' in the record that starts here",
    ]


@pytest.mark.parametrize("content", [b"text,label\ra,b\rc,d\r", b"text,label\na\rb,c\n"])
def test_carriage_returns_alone_are_named(write, content):
    with pytest.raises(DataError) as caught:
        read_rows(write("rows.csv", content))
    assert "a carriage return alone ends or breaks a line" in str(caught.value)
    assert "end lines with a line feed" in str(caught.value)
    assert "universal" not in str(caught.value)
    assert "no header" not in str(caught.value)


def test_a_header_that_cannot_be_read_is_all_that_is_told(write):
    with pytest.raises(DataError) as caught:
        read_rows(write("rows.csv", 'text,"label"s\na,b\nc,d,e\n'))
    assert str(caught.value).count("rows.csv:") == 1
    assert "rows.csv:1: ',' expected after" in str(caught.value)


def test_quotes_that_are_never_closed(write):
    with pytest.raises(DataError, match=r"rows.csv:3: unexpected end of data in the record that starts here"):
        read_rows(write("rows.csv", 'text,label\na,b\n"never closed,c\nd,e\n'))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,,label\n", ":1: column 2 has no name"),
        ("text,text\n", ":1: the header names 'text' twice"),
        ("text;label\na;b\n", ":1: the header is one column, 'text;label', and holds ';'"),
        ("\n\n", "no header"),
        ("text,label\n", "no rows"),
        (b"\xff\xfet\x00", "the file is UTF-16"),
    ],
)
def test_headers_that_cannot_be_used(write, content, message):
    with pytest.raises(DataError) as caught:
        read_rows(write("rows.csv", content))
    assert message in str(caught.value)


def test_long_fields_are_read_and_the_csv_module_is_left_as_it_was(write):
    before = csv.field_size_limit()
    rows = read_rows(write("rows.csv", "text\n" + "a" * 200_000 + "\n"))
    assert len(rows.rows[0]["text"]) == 200_000
    assert csv.field_size_limit() == before


def test_parquet(tmp_path):
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"], "label": [1, None]}), path)
    rows = read_rows(str(path))
    assert list(rows.rows) == [{"text": "a", "label": 1}, {"text": "b", "label": None}]
    assert rows.origin(1) == f"{path}:row 2"


def test_parquet_class_numbers_become_names(tmp_path):
    names = datasets.ClassLabel(names=["negative", "positive"])
    features = datasets.Features({"text": datasets.Value("string"), "label": names, "tags": datasets.List(names)})
    data = {"text": ["a", "b"], "label": [1, -1], "tags": [[0, 1], []]}
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(datasets.Dataset.from_dict(data, features=features).data.table, path)

    rows = read_rows(str(path)).rows
    assert rows[0] == {"text": "a", "label": "positive", "tags": ["negative", "positive"]}
    assert rows[1]["label"] is None, "-1 stands for no label"


def test_parquet_that_is_none(write):
    with pytest.raises(DataError, match=r"rows.parquet: not a Parquet file that can be read"):
        read_rows(write("rows.parquet", b"PAR1 and nothing else"))


def test_parquet_that_names_a_column_twice(tmp_path):
    path = tmp_path / "rows.parquet"
    columns = [pyarrow.array([value]) for value in ("a", "b", "c")]
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(columns, names=["text", "label", "text"]), path)
    with pytest.raises(DataError, match=r"rows.parquet: the header names 'text' twice; name each column once"):
        read_rows(str(path))


@pytest.mark.parametrize(
    "note", [b"{cut off", b'{"info": {"features": {"text": {"_type": "OfTomorrow"}}}}', b'{"info": {"features": 5}}']
)
def test_notes_of_datasets_that_cannot_be_read(tmp_path, note):
    path = tmp_path / "rows.parquet"
    table = pyarrow.table({"text": ["a"]}).replace_schema_metadata({b"huggingface": note})
    pyarrow.parquet.write_table(table, path)
    with pytest.raises(DataError, match=r"rows.parquet: what the library datasets noted in it .* upgrade datasets"):
        read_rows(str(path))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (pyarrow.array([b"fine", b"\xff"], pyarrow.binary()).view(pyarrow.string()), "'utf-8' codec can't decode"),
        (pyarrow.array([0, 2**60], pyarrow.timestamp("us")), "date value out of range"),
    ],
)
def test_values_of_parquet_that_python_lacks(tmp_path, values, reason):
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": values}), path)
    with pytest.raises(DataError, match=rf"rows.parquet: a value cannot be read \({reason}"):
        read_rows(str(path))


def test_a_nul_in_parquet_is_named_by_row(tmp_path):
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["fine", "a\0b"]}), path)
    with pytest.raises(DataError, match=r"rows.parquet:row 2: a text holds a NUL character"):
        read_rows(str(path))
