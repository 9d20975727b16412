"""`petune methods`: what exists, with papers and parameter counts."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from petune.cli.command import new_app
from petune.cli.flags import shown_default
from petune.cli.reporting import say, settings_text
from petune.errors import ConfigError
from petune.methods.config import fields_of

if TYPE_CHECKING:
    from petune.catalogue import MethodInfo

app = new_app()


@app.command(help="List the methods, with their papers and parameter counts.")
def methods(
    model: Annotated[
        str | None,
        typer.Option("--model", help="Base model to count parameters for; its weights are not loaded.", metavar="TEXT"),
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch, tag or commit of a hub model.", metavar="TEXT")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let the base model's repository run its own Python code.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the methods."""
    from petune.catalogue import list_methods

    if model is None and (revision is not None or trust_remote_code):
        raise ConfigError("--revision and --trust-remote-code are of a base; give it with --model, or leave them out")
    found = list_methods(model, revision=revision, trust_remote_code=trust_remote_code)
    if as_json:
        say(json.dumps([asdict(method) for method in found], indent=2))
        return
    rows = [("method", "sites", "learning rate", "trainable", "share")]
    for method in found:
        counts = ("not here" if method.refused else "", "")
        if method.trainable is not None and method.total is not None:
            counts = (f"{method.trainable:,}", f"{method.trainable / method.total:.2%}")
        rows.append(
            (method.name, ", ".join(method.sites), f"{method.learning_rate:g}" if method.learning_rate else "", *counts)
        )
    _print_table([row if model else row[:3] for row in rows])
    for method in found:
        _print_settings(method)


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns: names on the left of theirs, numbers on the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [text.ljust(w) if i < 2 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))]
        say("  ".join(cells).rstrip())


def _print_settings(method: "MethodInfo") -> None:
    from petune import methods as registry

    say(f"\n{method.name}: {method.title}")
    if method.refused:
        say(f"  not for this base: {method.refused}")
    if method.paper is not None:
        say(f"  {method.paper.authors} {method.paper.year}, {method.paper.title}, {method.paper.url}")
    for name, field in fields_of(registry.get(method.name).config_class).items():
        say(f"  {name} = {shown_default(field.default)}: {' '.join((field.description or '').split())}")
    if method.variations:
        say(f"  petune compare also tries {', '.join(map(settings_text, method.variations))}")
