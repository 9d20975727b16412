"""Jinja in a sandbox in which a template can neither take long nor grow without end.

What repeats is counted: turns of a loop and calls, for each row, and the time between them. What makes something large
of something small is measured before it is made, or is not there: sums, copies, joined and replaced text, and lists of
lists, which are as large as all they hold.
"""

import time
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, cast, final

import jinja2
from jinja2 import nodes
from jinja2.filters import make_attrgetter
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import htmlsafe_json_dumps
from jinja2.visitor import NodeTransformer

LONGEST_OUTPUT = 2**20
"""Characters one row may become."""

MOST_STEPS = 100_000
"""Turns of loops, and calls, in one row."""
MOST_SECONDS = 1.0
"""Of the processor's time that one row may take."""
MOST_INDENT = 16
"""Of JSON."""

# Each makes a huge text or list of one small call.
_PADDING = frozenset(
    {"center", "expandtabs", "format", "format_map", "ljust", "rjust", "zfill", "to_bytes", "translate"}
)
_FILTERS_OF_ANY_SIZE = frozenset({"batch", "slice", "indent", "wordwrap", "xmlattr", "urlize", "pprint"}) | _PADDING


class _Counted(NodeTransformer):
    """Puts a measure around what a template repeats or gathers."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - Jinja's name
        """Count the turns of a loop."""
        if node.recursive:
            raise jinja2.TemplateSyntaxError("a loop may not call itself", node.lineno)
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "_counted")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - Jinja's name
        """Join texts as the filter does."""
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "join")

    def _measured(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, "_measured") if getattr(node, "ctx", "load") == "load" else node

    visit_List = visit_Tuple = visit_Dict = _measured  # noqa: N815 - Jinja's names


def _filtered(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


@final
class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one template."""

    intercepted_binops = frozenset({"*", "**", "%", "+"})

    def __init__(self) -> None:
        super().__init__(undefined=jinja2.StrictUndefined, finalize=_shown, keep_trailing_newline=True)
        self.begin_row()
        self.globals["range"] = self._range
        del self.globals["lipsum"]
        for name in _FILTERS_OF_ANY_SIZE & self.filters.keys():
            del self.filters[name]
        self.filters |= {
            "_counted": self._counted,
            "_measured": _measured,
            "join": self._join,
            "replace": _replace,
            "string": _text,
            "sum": self._sum,
            "tojson": _tojson,
        }

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return cast("nodes.Template", _Counted().visit(super()._parse(source, name, filename)))

    def begin_row(self) -> None:
        """Give the next row its own share of steps and time."""
        self._steps_left = MOST_STEPS
        self._end = time.thread_time() + MOST_SECONDS

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Refuse the methods that pad to any width, besides what the sandbox refuses."""
        return attr not in _PADDING and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Any:
        """Leave ``str.format`` to :meth:`is_safe_attribute`; Jinja would allow a wrapped one."""
        return None

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - as in Jinja
        """Count a call; texts are replaced and joined as the filters do."""
        __self._step()
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str) and name == "replace":
            return _replace(owner, *args, **kwargs)
        if isinstance(owner, str) and name == "join" and len(args) == 1:
            return __self._join(args[0], owner)
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Multiply, raise, format or add only where the result stays small."""
        both_small = all(isinstance(side, int | float) and abs(side) < 2**32 for side in (left, right))
        if operator in ("**", "%") and not (both_small and (operator == "%" or abs(right) <= 64)):
            raise jinja2.TemplateRuntimeError(f"'{operator}' is for small numbers alone in a template")
        if operator == "*" and not both_small:
            sizes = [_size(side) if isinstance(side, _GATHERED) else abs(side) for side in (left, right)]
            _require(sizes[0] * sizes[1], "'*'")
        if operator == "+" and isinstance(left, _GATHERED) and isinstance(right, _GATHERED):
            _require(_size(left) + _size(right), "'+'")
        return super().call_binop(context, operator, left, right)

    def _step(self) -> None:
        self._steps_left -= 1
        if self._steps_left < 0:
            raise jinja2.TemplateRuntimeError(f"a row takes more than {MOST_STEPS:,} steps")
        if time.thread_time() > self._end:
            raise jinja2.TemplateRuntimeError(f"a row takes longer than {MOST_SECONDS:g} s")

    def _range(self, *bounds: int) -> range:
        steps = range(*bounds)
        # `len` fails beyond the platform's index; the span is enough to refuse.
        if abs(steps.stop - steps.start) > MOST_STEPS * abs(steps.step) or len(steps) > self._steps_left:
            raise jinja2.TemplateRuntimeError(f"range() asks for more than {MOST_STEPS:,} steps in one row")
        return steps

    def _counted(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self._step()
            yield item

    def _join(self, items: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
        if attribute is not None:
            items = map(make_attrgetter(self, attribute), items)
        texts = [_text(item) for item in items]
        _require(sum(map(len, texts)) + len(d) * max(0, len(texts) - 1), "joined text")
        return d.join(texts)

    def _sum(self, items: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
        if attribute is not None:
            items = map(make_attrgetter(self, attribute), items)
        numbers = [start, *items]
        if not all(isinstance(number, int | float) for number in numbers):
            raise jinja2.TemplateRuntimeError("'sum' is for numbers alone in a template; use 'join' for texts")
        return sum(numbers)


_GATHERED = (str, bytes, list, tuple, dict)


def _measured(value: Any) -> Any:
    """Return a value, where it and all it holds are not longer than a row may be."""
    _size(value)
    return value


def _size(value: Any) -> int:
    """Return how many characters and parts a value has, those of its parts counted as often as they occur."""
    total, left = 0, [iter((value,))]
    while left:
        for part in left[-1]:
            total += len(part) + 1 if isinstance(part, _GATHERED) else 1
            _require(total, "a list or text")
            if isinstance(part, dict):
                left.append(chain(part.keys(), part.values()))
                break
            if isinstance(part, list | tuple):
                left.append(iter(part))
                break
        else:
            left.pop()
    return total


def _require(size: float, what: str) -> None:
    if size > LONGEST_OUTPUT:
        raise jinja2.TemplateRuntimeError(f"{what} would make more than a row may hold")


def _shown(value: Any) -> Any:
    if value is None:
        raise jinja2.TemplateRuntimeError("a slot is null (None); write {{ column or '' }} to allow that")
    return _measured(value)


def _text(value: Any) -> str:
    return str(_measured(value))


def _replace(value: Any, old: str, new: str, count: int | None = None) -> str:
    text = _text(value)
    found = text.count(old) if count is None or count < 0 else min(count, text.count(old))
    _require(len(text) + found * (len(new) - len(old)), "'replace'")
    return text.replace(old, new, found)


def _tojson(value: Any, indent: int | None = None) -> str:
    if indent is not None and not 0 <= indent <= MOST_INDENT:
        raise jinja2.TemplateRuntimeError(f"'tojson' indents by {MOST_INDENT} at the most")
    return htmlsafe_json_dumps(_measured(value), sort_keys=True, indent=indent)
