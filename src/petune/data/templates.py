"""Prompt and target templates: Jinja in a sandbox, every slot checked, output and work bounded."""

import re
from collections.abc import Mapping
from typing import Any, final

import jinja2
from jinja2 import meta

from petune.data.problems import RowProblem
from petune.data.template_sandbox import LONGEST_OUTPUT, Sandbox
from petune.errors import DataError, nearest

_UNKNOWN = re.compile(r"'(?P<name>[^']+)' is undefined")
# What an expression on a row's values can raise besides Jinja's own errors.
_RENDER_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


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
        self._environment = Sandbox()
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
        self._environment.begin_row()
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
