"""What a template may not do: leave the sandbox, take long, or grow without end."""

import time

import pytest

from petune.data.problems import RowProblem
from petune.data.templates import TextTemplate
from petune.errors import DataError

ROW = {"title": "Dawn", "stars": 5, "words": ["a", "b"], "note": None}
COLUMNS = tuple(ROW)


def render(text: str) -> str:
    return TextTemplate(text, "--template").render(ROW, COLUMNS)


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
    "{% set n = namespace(t=title) %}{% for i in range(60) %}{% set n.t = n.t ~ n.t %}{% endfor %}",
    "{% set n = namespace(t=title) %}{% for i in range(60) %}{% set n.t = n.t + n.t %}{% endfor %}",
    "{% set n = namespace(t=words) %}{% for i in range(60) %}{% set n.t = [n.t, n.t] %}{% endfor %}{{ n.t }}",
    "{% set n = namespace(t=words) %}{% for i in range(60) %}{% set n.t = {'a': n.t, 'b': n.t} %}{% endfor %}",
    "{% for a in words * 9000 %}{% for b in words * 9000 %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% for a in words recursive %}{{ loop(words) }}{% endfor %}",
    "{{ ('x' * 9**6) | replace('x', 'x' * 9**6) }}",
    "{{ ('x' * 9**6).replace('x', 'x' * 9**6) }}",
    "{{ ('x' * 9**6).join(words * 9**5) }}",
    "{{ (words * 9**5) | join('x' * 9**6) }}",
    "{{ ([words * 9**5] * 9**5) | sum(start=[]) }}",
    "{{ title.translate({68: 'x' * 9**6}) }}",
    "{{ stars.to_bytes(10**9, 'big') }}",
    "{{ words | batch(10**9, 'x') | list }}",
    "{{ words | tojson(indent=10**9) }}",
    "{{ title | indent(10**9) }}",
    "{{ lipsum(10**6) }}",
    "{% for i in range(99999) %}{% set x = ('x' * 9**6) | upper %}{% endfor %}",
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
