"""What all commands share: plain help that cuts no flag short, ``-h``, and flags with dashes or underscores."""

from typing import Any

import typer

CONTEXT: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 110,
    "token_normalize_func": lambda name: name.replace("_", "-"),
}


def new_app(**options: Any) -> typer.Typer:
    """Return an empty app; ``options`` are typer's."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, **options)
