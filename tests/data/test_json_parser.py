import time

from petune.data.json_parser import StrictParser, check_value, kind, shortened
from petune.data.problems import RowProblem


def test_a_value_is_parsed_where_it_stands():
    parser = StrictParser()
    assert parser.parse('[{"a": [1, "é", null, true]}, 5]', 1) == ({"a": [1, "é", None, True]}, 28)
    problem, end = parser.parse('{"a": 1, "a": 2} {"b": 1}')
    assert isinstance(problem, RowProblem)
    assert end == 16
    assert parser.parse('{"a": 1, "a": 2} {"b": 1}', 17) == ({"b": 1}, 25), "no finding outlives its value"


def test_a_doubled_key_among_very_many_is_found_at_once():
    keys = ", ".join(f'"{n % 199_999}": 0' for n in range(200_000))
    started = time.process_time()
    problem, _ = StrictParser().parse(f"{{{keys}}}")
    assert "key '0' is there twice" in problem.reason
    assert time.process_time() - started < 2


def test_values_from_elsewhere_are_checked_too():
    assert check_value({"a": ["fine", {"b": 1.5}]}) is None
    assert "NUL" in check_value({"a": ["x\0"]}).reason
    assert "lone surrogate (\\udc00)" in check_value({"\udc00": 1}).reason


def test_names_in_errors():
    kinds = [kind(value) for value in (None, True, "a", 1.5, [1], {}, b"")]
    assert kinds == ["null", "a boolean", "a string", "a number", "a list", "an object", "a bytes"]
    assert shortened("a\x1b[31m" + "b" * 50) == "a\\x1b[31m" + "b" * 34 + "…"
