"""`petune methods`: what exists, with papers and parameter counts."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from petune.cli.reporting import say

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help="List the methods, with their papers and parameter counts.")
def methods(
    model: Annotated[
        str | None,
        typer.Option("--model", help="Base model to count parameters for; its weights are not loaded."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the methods."""
    from petune import methods as registry
    from petune.api import list_methods

    found = list_methods(model)
    if as_json:
        say(json.dumps([asdict(method) for method in found], indent=2))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("method", "sites", "learning rate", *(("trainable", "share") if model else ()), "paper"):
        table.add_column(column, justify="right" if column in ("trainable", "share", "learning rate") else "left")
    for method in found:
        counts = []
        if method.trainable is not None and method.total is not None:
            counts = [f"{method.trainable:,}", f"{method.trainable / method.total:.2%}"]
        paper = "" if method.paper is None else f"{method.paper.authors} {method.paper.year}, {method.paper.url}"
        table.add_row(method.name, ", ".join(method.sites), f"{method.learning_rate:g}", *counts, paper)
    console = Console(soft_wrap=True)
    console.print(table)
    for method in found:
        console.print(f"\n{method.name} settings", highlight=False)
        for name, field in registry.get(method.name).config_class.model_fields.items():
            description = " ".join((field.description or "").split())
            console.print(f"  {name} = {field.default}: {description}", highlight=False, markup=False)
