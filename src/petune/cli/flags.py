"""Command-line flags from pydantic models, so that YAML, --help and Python share one description of every setting."""

import inspect
import json
import re
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import AliasChoices, BaseModel
from pydantic.fields import FieldInfo

from petune.errors import ConfigError
from petune.evaluation.options import ESCAPES
from petune.methods.config import fields_of

REPEATED = "repeated"
"""Marks a list whose flag is given once for each of its entries, which may hold commas."""

_YES_OR_NO = ("true", "false", "yes", "no", "on", "off", "1", "0")


def flags_of(
    *models: type[BaseModel], leave_out: Iterable[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds a flag for each field of ``models`` to a typer command.

    The command takes the flags that were given as ``**given: str | bool``; :func:`values` turns them into settings.
    """
    fields = {name: field for model in models for name, field in fields_of(model).items() if name not in leave_out}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]
        added = [_parameter(name, field) for name, field in fields.items()]
        command.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
        command.__annotations__ |= {p.name: p.annotation for p in added}
        return command

    return decorate


def values(given: Mapping[str, Any], *models: type[BaseModel]) -> dict[str, Any]:
    """Return the flags that were given, as the fields' settings."""
    fields = {name: field for model in models for name, field in model.model_fields.items()}
    return {name: read(fields[name], value) for name, value in given.items() if value not in (None, [])}


def read(field: FieldInfo, value: Any) -> Any:
    """Return what the text ``value`` means for ``field``.

    Lists are cut at commas, maps are ``key=value`` pairs between commas; either may be written in JSON instead, where
    a part holds a comma itself. ``none`` is None where the field allows it. Escapes count where the field says so.
    """
    if not isinstance(value, str):
        return tuple(value) if isinstance(value, list) else value
    kinds = kinds_of(field)
    if type(None) in kinds and value.lower() in ("none", "null"):
        return None
    if dict in kinds:
        return _json(value, dict) or dict(_pair(part) for part in value.split(",") if part)
    if tuple in kinds and (listed := _json(value, list)) is not None:
        return tuple(listed)
    if tuple in kinds and (str not in kinds or "," in value):
        # A list of one blank, such as a line break to stop at, is meant as it is.
        parts = tuple(part.strip() for part in value.split(",") if part.strip()) or (value,)
        return tuple(map(_unescaped, parts)) if ESCAPES in field.metadata else parts
    return value


def _unescaped(text: str) -> str:
    """Return ``text`` with line breaks, tabs and backslashes in place of their escapes."""
    return re.sub(r"\\([nt\\])", lambda match: {"n": "\n", "t": "\t"}.get(match[1], match[1]), text)


def extra_settings(arguments: Iterable[str], switches: Collection[str] = ()) -> tuple[dict[str, str], list[str]]:
    """Return the settings in leftover arguments (``key=value``, ``--key value``, ``--key=value``), and the others.

    A YAML file that exists is one of the others, whatever its name holds.

    Args:
        arguments: what no flag has taken.
        switches: settings that are true or false, and true where only ``--key`` stands.

    Raises:
        ConfigError: a flag has no value.
    """
    settings: dict[str, str] = {}
    others: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        key, equals, value = argument.lstrip("-").partition("=")
        key = key.replace("-", "_")
        if argument.endswith((".yaml", ".yml")) and Path(argument).is_file():
            others.append(argument)
        elif equals:
            settings[key] = value
        elif not argument.startswith("-"):
            others.append(argument)
        elif key in switches and (not rest or rest[0].lower() not in _YES_OR_NO):
            settings[key] = "true"
        elif key.removeprefix("no_") in switches and key not in switches:
            settings[key.removeprefix("no_")] = "false"
        elif rest:
            settings[key] = rest.pop(0)
        else:
            raise ConfigError(f"{argument} has no value, or is unknown; write {argument} VALUE, or KEY=VALUE")
    return settings, others


def spellings(model: type[BaseModel]) -> dict[str, str]:
    """Return every name by which a setting of ``model`` may be written, with the setting's own name."""
    names = {name: name for name in model.model_fields}
    for name, field in model.model_fields.items():
        if isinstance(field.validation_alias, AliasChoices):
            names |= {str(choice): name for choice in field.validation_alias.choices}
    return names


def kinds_of(field: FieldInfo) -> set[Any]:
    """Return the plain types that a field allows."""
    return _kinds(field.annotation)


def shown_default(value: Any) -> str:
    """Return a default as one would write it on the command line."""
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(str(part) for part in value) if isinstance(value, tuple) else str(value)


def setting_rows(model: type[BaseModel]) -> list[tuple[str, str]]:
    """Return each setting of ``model`` as it is written, ``name=TEXT``, with its meaning and default."""
    return [(f"{name}={_metavar(field.annotation)}", _help(field)) for name, field in fields_of(model).items()]


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"'{text}' is not KEY=VALUE; write several as KEY=VALUE,KEY=VALUE")
    return key.strip(), value.strip()


def _json(text: str, kind: type) -> Any:
    """Return the list or map that ``text`` writes in JSON, or None where it does not."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, kind) else None


def _kinds(annotation: Any) -> set[Any]:
    if get_origin(annotation) in (Union, types.UnionType):
        return set().union(*(_kinds(part) for part in get_args(annotation)))
    return {get_origin(annotation) or annotation}


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    flag = f"--{name.replace('_', '-')}"
    annotation: Any
    if kinds_of(field) - {type(None)} == {bool}:
        option = typer.Option(f"{flag}/--no-{flag[2:]}", help=_help(field), show_default=False)
        annotation = bool | None
    elif REPEATED in field.metadata:
        option = typer.Option(
            flag, help=f"{_help(field)} May be given several times.", metavar="TEXT", show_default=False
        )
        annotation = list[str] | None
    else:
        option = typer.Option(flag, help=_help(field), metavar=_metavar(field.annotation), show_default=False)
        annotation = str | None
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[annotation, option]
    )


def _help(field: FieldInfo) -> str:
    text = " ".join((field.description or "").split())
    shown = field.default
    if shown is None or shown == () or field.is_required() or "(default:" in text:
        return text
    return f"{text} (default: {shown_default(shown)})"


def _metavar(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _metavar(parts[0])
    if origin in (Union, types.UnionType):
        return next(_metavar(part) for part in parts if part is not type(None))
    if origin is Literal:
        return "|".join(str(choice) for choice in parts)
    if origin is tuple:
        of_models = isinstance(parts[0], type) and issubclass(parts[0], BaseModel)
        return "JSON" if of_models else f"{_metavar(parts[0])},..."
    if origin is dict:
        return "KEY=VALUE,..."
    return {bool: "true|false", int: "INTEGER", float: "NUMBER", str: "TEXT"}.get(annotation, "VALUE")
