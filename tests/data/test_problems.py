import pytest

from petune.data.problems import Problems, RowProblem
from petune.errors import DataError


def test_problems_are_told_in_the_order_of_files_and_lines():
    problems = Problems()
    problems.raise_if_any()
    problems.add("a", 30, "a:30", RowProblem("late", "mend it"))
    problems.add("b", 1, "b:1", RowProblem("other file", "mend it"))
    problems.add("a", 4, "a:4", RowProblem("early", "mend it"))
    problems.add_error("b", DataError("b is odd"))
    assert len(problems) == 4
    with pytest.raises(DataError) as caught:
        problems.raise_if_any()
    assert str(caught.value).splitlines() == [
        "a:4: early; mend it",
        "a:30: late; mend it",
        "b is odd",
        "b:1: other file; mend it",
    ]


@pytest.mark.parametrize(("count", "last"), [(20, "a:20: x; y"), (21, "... and 1 more (21 problems in all)")])
def test_twenty_are_told_and_the_rest_counted(count, last):
    problems = Problems()
    for number in range(1, count + 1):
        problems.add("a", number, f"a:{number}", RowProblem("x", "y"))
    with pytest.raises(DataError) as caught:
        problems.raise_if_any()
    assert str(caught.value).splitlines()[-1] == last
