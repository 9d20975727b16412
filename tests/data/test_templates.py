import time

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


BOMBS = [
    "{% for n in range(10**9) %}x{% endfor %}",
    "{% for n in range(10**30) %}x{% endfor %}",
    "{% for n in range(90000) %}{% for m in range(90000) %}{% endfor %}{% endfor %}",
    "{% for n in range(90000) %}{{ title }}{{ title }}{{ title }}{{ title }}{% endfor %}",
    "{{ 'x' * 10**9 }}",
    "{{ 10**9 * 'x' }}",
    "{{ [0] * 10**9 }}",
    "{{ 10 ** 10 ** 10 }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ 'x' | center(10**9) }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ title.ljust(10**9) }}",
    "{{ '{:1000000000}'.format(1) }}",
]


@pytest.mark.parametrize("template", BOMBS)
def test_a_template_can_neither_loop_nor_grow_without_end(template):
    started = time.process_time()
    with pytest.raises((RowProblem, DataError)):
        render(template)
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ title.__init__.__globals__ }}",
        "{{ words.append('c') }}",
        "{{ self.__init__.__globals__.__builtins__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ (title | attr('__class__')) }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_template_cannot_leave_the_sandbox(template):
    with pytest.raises((RowProblem, DataError)):
        render(template)


def test_each_row_has_its_own_share_of_steps():
    template = TextTemplate("{% for n in range(60000) %}{% endfor %}done", "--template")
    assert [template.render(ROW, COLUMNS) for _ in range(3)] == ["done"] * 3
