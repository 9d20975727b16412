"""Command-line flags from pydantic models, so that YAML, --help and Python share one description of every setting."""

import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from petune.errors import ConfigError


def flags_of(
    *models: type[BaseModel], leave_out: Iterable[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds a flag for each field of ``models`` to a typer command.

    The command takes the flags that were given as ``**given: str | bool``; :func:`values` turns them into settings.
    """
    fields = {name: field for model in models for name, field in model.model_fields.items() if name not in leave_out}

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
    return {name: read(fields[name], value) for name, value in given.items() if value is not None}


def read(field: FieldInfo, value: Any) -> Any:
    """Return what the text ``value`` means for ``field``: lists at commas, maps as ``key=value``, ``none``."""
    if not isinstance(value, str):
        return value
    kinds = _kinds(field.annotation)
    if type(None) in kinds and value.lower() in ("none", "null"):
        return None
    if dict in kinds:
        return dict(_pair(part) for part in value.split(",") if part)
    if tuple in kinds and (str not in kinds or "," in value):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def extra_settings(arguments: Iterable[str], known: Mapping[str, FieldInfo]) -> tuple[dict[str, Any], list[str]]:
    """Return the settings in leftover arguments (``key=value``, ``--key value``, ``--key=value``), and the others.

    Raises:
        ConfigError: a flag has no value.
    """
    settings: dict[str, Any] = {}
    others: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument.startswith("--") and "=" not in argument:
            if not rest:
                raise ConfigError(f"{argument} has no value, or is unknown; write {argument} VALUE, or KEY=VALUE")
            argument = f"{argument}={rest.pop(0)}"
        key, equals, value = argument.lstrip("-").partition("=")
        if not equals:
            others.append(argument)
            continue
        key = key.replace("-", "_")
        settings[key] = read(known[key], value) if key in known else value
    return settings, others


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"'{text}' is not KEY=VALUE; write several as KEY=VALUE,KEY=VALUE")
    return key.strip(), value.strip()


def _kinds(annotation: Any) -> set[Any]:
    """Return the plain types an annotation allows."""
    if get_origin(annotation) in (Union, types.UnionType):
        return set().union(*(_kinds(part) for part in get_args(annotation)))
    return {get_origin(annotation) or annotation}


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    kinds = _kinds(field.annotation) - {type(None)}
    flag = f"--{name.replace('_', '-')}"
    spellings = [flag] if flag == f"--{name}" else [flag, f"--{name}"]
    annotation: Any
    if kinds == {bool}:
        option = typer.Option(f"{flag}/--no-{flag[2:]}", help=_help(field), show_default=False)
        annotation = bool | None
    else:
        option = typer.Option(*spellings, help=_help(field), metavar=_metavar(field.annotation), show_default=False)
        annotation = str | None
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[annotation, option]
    )


def _help(field: FieldInfo) -> str:
    text = " ".join((field.description or "").split())
    shown = field.default
    if shown is None or shown == () or field.is_required() or "(default:" in text:
        return text
    return f"{text} (default: {','.join(shown) if isinstance(shown, tuple) else shown})"


def _metavar(annotation: Any) -> str:
    if get_origin(annotation) in (Union, types.UnionType):
        return next(_metavar(part) for part in get_args(annotation) if part is not type(None))
    if get_origin(annotation) is Literal:
        return "|".join(str(choice) for choice in get_args(annotation))
    if get_origin(annotation) is tuple:
        return f"{_metavar(get_args(annotation)[0])},..."
    if get_origin(annotation) is dict:
        return "KEY=VALUE,..."
    return {int: "INTEGER", float: "NUMBER", str: "TEXT"}.get(annotation, "VALUE")
