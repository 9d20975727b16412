"""CSV, TSV and Parquet files to rows."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from petune.data.class_names import named_classes
from petune.data.json_parser import check_value, shortened
from petune.data.problems import Problems, RowProblem
from petune.data.rows import Rows
from petune.data.text_files import decode_line, without_bom
from petune.errors import DataError

_LONGEST_FIELD = 16 * 2**20


def read_csv(path: Path, name: str, problems: Problems) -> Rows:
    """Read comma-separated values; the first line names the columns.

    Raises:
        DataError: the header cannot be used.
    """
    return _read_separated(path, name, problems, ",")


def read_tsv(path: Path, name: str, problems: Problems) -> Rows:
    """Read tab-separated values; the first line names the columns.

    Raises:
        DataError: the header cannot be used.
    """
    return _read_separated(path, name, problems, "\t")


def read_parquet(path: Path, name: str, problems: Problems) -> Rows:
    """Read a Parquet file; whole numbers that stand for named classes become the names.

    Raises:
        DataError: it is no Parquet file, names a column twice, or has values or notes that cannot be read.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        _refuse_columns_twice(pyarrow.parquet.read_schema(path).names, name)
        table = pyarrow.parquet.read_table(path, partitioning=None)
        values = table.to_pylist()
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
        raise DataError(f"{name}: not a Parquet file that can be read ({error}); write it anew") from error
    except (ValueError, OverflowError) as error:
        raise DataError(
            f"{name}: a value cannot be read ({error}); text is UTF-8, and dates are those of Python"
        ) from error
    try:
        convert = named_classes(table.schema)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"{name}: what the library datasets noted in it about its columns cannot be read ({error}); upgrade"
            " datasets, or write the file anew without the note"
        ) from error
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    for number, row in enumerate(values, start=1):
        problem = check_value(row)
        if problem is not None:
            problems.add(name, number, f"{name}:row {number}", problem)
            continue
        rows.append(convert(row))
        numbers.append(number)
    return Rows(name, f"{name}:row ", tuple(table.column_names), rows, numbers)


def _read_separated(path: Path, name: str, problems: Problems, separator: str) -> Rows:
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        with path.open("rb") as file:
            lines = _decoded(file, name, problems)
            return _read_records(lines, name, problems, separator)
    finally:
        csv.field_size_limit(before)


def _decoded(file: Iterator[bytes], name: str, problems: Problems) -> Iterator[str]:
    """Yield the lines; one that is not UTF-8 is a problem, and goes on with its bad bytes replaced."""
    for number, line in enumerate(file, start=1):
        if number == 1:
            line = without_bom(line, name)
        try:
            yield decode_line(line)
        except RowProblem as problem:
            problems.add(name, number, f"{name}:{number}", problem)
            yield line.replace(b"\0", b"").decode(errors="replace")


def _read_records(lines: Iterator[str], name: str, problems: Problems, separator: str) -> Rows:
    reader = csv.reader(lines, delimiter=separator, strict=True)
    header: list[str] | None = None
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    number = 1
    while True:
        number = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            problems.add(name, number, f"{name}:{number}", _problem_of(error))
            if header is None:  # nothing is known of the columns
                return Rows(name, f"{name}:", (), [], [])
            if reader.line_num < number:
                break
            continue
        if not record:
            continue
        if header is None:
            header = _checked_header(record, name, number, separator)
        elif len(record) != len(header):
            reason = f"{len(record)} fields, and the header names {len(header)}"
            problems.add(name, number, f"{name}:{number}", RowProblem(reason, "quote fields that hold the separator"))
        else:
            rows.append(dict(zip(header, record, strict=True)))
            numbers.append(number)
    if header is None:
        raise DataError(f"{name}: no header; let the first line name the columns")
    return Rows(name, f"{name}:", tuple(header), rows, numbers)


def _problem_of(error: csv.Error) -> RowProblem:
    if "new-line character" in str(error):  # Python's own advice is about how it opens files
        fix = "end lines with a line feed (\\n), and quote fields that hold line ends"
        return RowProblem("a carriage return alone ends or breaks a line in the record that starts here", fix)
    fix = "close the quotes, and write a quote inside a field twice"
    return RowProblem(f"{error} in the record that starts here", fix)


def _checked_header(record: list[str], name: str, number: int, separator: str) -> list[str]:
    header = [column.strip() for column in record]
    if "" in header:
        raise DataError(f"{name}:{number}: column {header.index('') + 1} has no name; name every column in the header")
    _refuse_columns_twice(header, f"{name}:{number}")
    other = next((char for char in ";\t|" if char != separator and char in header[0]), None)
    if len(header) == 1 and other is not None:
        raise DataError(
            f"{name}:{number}: the header is one column, '{shortened(header[0])}', and holds {other!r}; "
            "separate .csv with commas and .tsv with tabs"
        )
    return header


def _refuse_columns_twice(columns: Sequence[str], place: str) -> None:
    twice = next((column for column in columns if columns.count(column) > 1), None)
    if twice is not None:
        raise DataError(f"{place}: the header names '{shortened(twice)}' twice; name each column once")
