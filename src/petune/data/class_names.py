"""Whole numbers that stand for named classes, turned into the names the data set gives them."""

from collections.abc import Callable, Mapping
from typing import Any

Convert = Callable[[Mapping[str, Any]], dict[str, Any]]


def named_classes(schema: Any) -> Convert:
    """Return what names the classes of rows of an Arrow schema, where ``datasets`` wrote it."""
    if b"huggingface" not in (schema.metadata or {}):
        return dict
    from datasets import Features

    return from_features(Features.from_arrow_schema(schema))


def from_features(features: Mapping[str, Any]) -> Convert:
    """Return what names the classes of rows with these features (``ClassLabel``, or lists of it)."""
    names = {column: found for column, feature in features.items() if (found := _names(feature))}
    if not names:
        return dict

    def convert(row: Mapping[str, Any]) -> dict[str, Any]:
        return {column: _named(value, names[column]) if column in names else value for column, value in row.items()}

    return convert


def _names(feature: Any) -> list[str] | None:
    from datasets import ClassLabel, List

    if isinstance(feature, List):
        return _names(feature.feature)
    return list(feature.names) if isinstance(feature, ClassLabel) else None


def _named(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_named(inner, names) for inner in value]
    # -1 is how a data set writes "no label"
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None
