"""Prompt and target templates: Jinja in a sandbox, every slot checked, output and work bounded."""

import re
from collections.abc import Mapping
from typing import Any, final

import jinja2
from jinja2 import meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from petune.data.problems import RowProblem
from petune.errors import DataError, nearest

LONGEST_OUTPUT = 2**20
"""Characters one row may become."""

_MOST_STEPS = 100_000
# Each makes a huge text of one small call.
_PADDING = frozenset({"center", "expandtabs", "format", "format_map", "ljust", "rjust", "zfill"})
_UNKNOWN = re.compile(r"'(?P<name>[^']+)' is undefined")
# What an expression on a row's values can raise besides Jinja's own errors.
_RENDER_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


@final
class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox in which a template can neither loop nor grow without end."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(undefined=jinja2.StrictUndefined, finalize=_not_null, keep_trailing_newline=True)
        self.steps_left = _MOST_STEPS
        self.globals["range"] = self._range
        for name in _PADDING & self.filters.keys():
            del self.filters[name]

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Refuse the methods that pad to any width, besides what the sandbox refuses."""
        return attr not in _PADDING and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Any:
        """Leave ``str.format`` to :meth:`is_safe_attribute`; Jinja would allow a wrapped one."""
        return None

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Multiply, raise or format only where the result stays small."""
        both_small = all(isinstance(side, int | float) and abs(side) < 2**32 for side in (left, right))
        if operator != "*" and not (both_small and (operator == "%" or abs(right) <= 64)):
            raise jinja2.TemplateRuntimeError(f"'{operator}' is for small numbers alone in a template")
        if operator == "*" and not both_small:
            sizes = [len(side) if isinstance(side, str | list | tuple) else abs(side) for side in (left, right)]
            if sizes[0] * sizes[1] > LONGEST_OUTPUT:
                raise jinja2.TemplateRuntimeError("'*' would make more than a row may hold")
        return super().call_binop(context, operator, left, right)

    def _range(self, *bounds: int) -> range:
        steps = range(*bounds)
        # `len` fails beyond the platform's index; the span is enough to refuse.
        if abs(steps.stop - steps.start) > _MOST_STEPS * abs(steps.step) or len(steps) > self.steps_left:
            raise jinja2.TemplateRuntimeError(f"range() asks for more than {_MOST_STEPS:,} steps in one row")
        self.steps_left -= len(steps)
        return steps


@final
class TextTemplate:
    """One Jinja template whose slots are the columns of a row.

    Args:
        text: the template.
        option: name of the option it comes from, for errors.

    Raises:
        DataError: it is not valid Jinja.
    """

    def __init__(self, text: str, option: str) -> None:
        self._option = option
        self._environment = _Environment()
        try:
            self._template = self._environment.from_string(text)
            self._slots = frozenset(meta.find_undeclared_variables(self._environment.parse(text)))
        except jinja2.TemplateSyntaxError as error:
            raise DataError(
                f"{option} line {error.lineno}: {error.message}; slots are written {{{{ column }}}}"
            ) from error

    @property
    def slots(self) -> frozenset[str]:
        """Names that the template asks for."""
        return self._slots

    def render(self, row: Mapping[str, Any], columns: tuple[str, ...]) -> str:
        """Return the text of a row.

        Args:
            row: column to value.
            columns: all columns of the source.

        Raises:
            DataError: a slot is no column of the source.
            RowProblem: the row lacks a value, the template fails on it, or the text would be longer than 1
                MiB.
        """
        self._environment.steps_left = _MOST_STEPS
        pieces: list[str] = []
        size = 0
        try:
            for piece in self._template.generate(row):
                size += len(piece)
                if size > LONGEST_OUTPUT:
                    raise RowProblem(f"{self._option} makes more than {LONGEST_OUTPUT:,} characters", "shorten it")
                pieces.append(piece)
        except _RENDER_ERRORS as error:
            raise self._problem(error, columns) from error
        return "".join(pieces)

    def _problem(self, error: Exception, columns: tuple[str, ...]) -> DataError | RowProblem:
        unknown = _UNKNOWN.fullmatch(str(error))
        if unknown is None:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            return RowProblem(f"{self._option} fails on this row: {reason}", "mend the template or the row")
        name = unknown["name"]
        if name in columns:
            return RowProblem(f"{self._option} needs column '{name}', which this row lacks", "add it to the row")
        return DataError(
            f"{self._option} has the slot '{name}', which is no column.{nearest(name, columns)} "
            f"Columns: {', '.join(columns)}"
        )


def _not_null(value: Any) -> Any:
    if value is None:
        raise jinja2.TemplateRuntimeError("a slot is null (None); write {{ column or '' }} to allow that")
    return value
