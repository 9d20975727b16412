import pytest

from petune.data.problems import RowProblem
from petune.data.templates import TextTemplate
from petune.errors import DataError

ROW = {"title": "Dawn", "stars": 5, "words": ["a", "b"], "note": None}
COLUMNS = (*ROW, "later")


def render(text: str, **changes: object) -> str:
    return TextTemplate(text, "--template").render({**ROW, **changes}, COLUMNS)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ title }}: {{ stars }}\n", "Dawn: 5\n"),
        ("{{ words | join(' ') }}", "a b"),
        ("{% if stars > 3 %}good{% else %}bad{% endif %}", "good"),
        ("{% if later is defined %}{{ later }}{% else %}-{% endif %}", "-"),
        ("{% for word in words %}{{ loop.index }}{{ word }}{% endfor %}", "1a2b"),
        ("{% for n in range(3) %}{{ n * 2 }}{% endfor %}", "024"),
        ("{{ '-' * 3 }}{{ stars % 2 }}{{ stars ** 2 }}", "---125"),
        ("{{ note or '' }}<b>&", "<b>&"),
        ("{{ title ~ ', ' ~ stars ~ words[0] }}", "Dawn, 5a"),
        (
            "{{ title | replace('a', 'o') }}{{ title.replace('D', 'd') }}{{ 'aaa' | replace('a', 'b', 2) }}",
            "Downdawnbba",
        ),
        ("{{ ', '.join(words) }}{{ words | tojson }}{{ [1, 2] | sum }}", 'a, b["a", "b"]3'),
        ("{% for w in words %}{{ loop.length }}{{ loop.last }}{{ loop.cycle('x', 'y') }}{% endfor %}", "2Falsex2Truey"),
        ("{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}{{ (1, 2)[1] }}", "a12"),
        ("{% for w in words if w != 'a' %}{{ w }}{% else %}-{% endfor %}", "b"),
        ("{% macro twice(t) %}{{ t }}{{ t }}{% endmacro %}{{ twice(title) }}", "DawnDawn"),
        ("{{ [{'a': 1}, {'a': 2}] | sum(attribute='a') }}{{ [{'a': 1}] | join(',', attribute='a') }}", "31"),
    ],
)
def test_rendering(template, expected):
    assert render(template) == expected


def test_an_unknown_slot_names_the_columns_and_the_nearest():
    with pytest.raises(DataError) as caught:
        render("{{ titel }}")
    assert str(caught.value) == (
        "--template has the slot 'titel', which is no column. Did you mean 'title'? "
        "Columns: title, stars, words, note, later"
    )


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ later }}", "--template needs column 'later', which this row lacks"),
        ("{{ note }}", r"--template fails on this row: a slot is null \(None\)"),
        ("{{ stars / 0 }}", "fails on this row: division by zero"),
        ("{{ words.missing }}", "fails on this row: 'list object' has no attribute 'missing'"),
        ("{{ title + 1 }}", "fails on this row: can only concatenate str"),
    ],
)
def test_rows_a_template_fails_on(template, message):
    with pytest.raises(RowProblem, match=message):
        render(template)


def test_a_template_that_is_no_template():
    with pytest.raises(DataError, match=r"--target line 2: .*; slots are written \{\{ column"):
        TextTemplate("a\n{{ title", "--target")
