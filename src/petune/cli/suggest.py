"""`petune suggest`: which methods to try on your data, with their cost and what was published of them."""

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from petune.cli.command import new_app
from petune.cli.flags import flags_of, values
from petune.cli.reporting import say
from petune.comparison.recipe import SUGGEST_KEYS
from petune.errors import ConfigError
from petune.training.recipe import RunOptions

if TYPE_CHECKING:
    from petune.comparison.suggest import Suggestion, Suggestions

app = new_app()
_LEFT_OUT = tuple(name for name in RunOptions.model_fields if name not in SUGGEST_KEYS)
_GIB = 2**30
_WIDTH = 120
_STANDINGS = {
    "above": "above full fine-tuning",
    "near": "near full fine-tuning",
    "works": "good, not compared",
    "below": "below full fine-tuning",
}


@app.command(
    short_help="Say which methods to try.",
    help="Say which methods to try on your data: what fits this machine, time, memory, bytes, and published evidence."
    " Nothing is trained, and no weights load.",
)
@flags_of(RunOptions, leave_out=_LEFT_OUT)
def suggest(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let the base's repository run its own code.")
    ] = False,
    **given: Any,
) -> None:
    """Say which methods to try."""
    settings = values(given, RunOptions)
    if "data" not in settings:
        raise ConfigError("no data: petune suggest --data FILE, or a hub data set id")
    from petune.cli.measuring import Measuring
    from petune.comparison.suggest import suggest as suggestions_for

    measuring = Measuring()
    try:
        found = suggestions_for(
            settings.pop("data"), trust_remote_code=trust_remote_code, measuring=measuring.tell, **settings
        )
    finally:
        measuring.close()
    if as_json:
        say(json.dumps(found.to_dict(), indent=2, ensure_ascii=False))
    else:
        print_suggestions(found)


def print_suggestions(found: "Suggestions") -> None:
    """Print the methods in a table, the reasons for their order, and how to go on."""
    from rich.console import Console
    from rich.table import Table

    report, there = found.data, found.machine
    say(f"base:    {found.model}, {found.parameters:,} parameters, for {found.task}")
    lengths = f"{report.lengths['50%']:,} tokens in the middle, {report.lengths['max']:,} at most"
    say(f"rows:    {report.rows_kept:,} of {report.source} (layout: {report.layout}); {lengths}")
    device = there.get("accelerator") or f"{there['cores']} cores"
    say(f"machine: {device}, {there['memory_bytes'] / _GIB:,.1f} GiB\n")
    table = Table(box=None, pad_edge=False)
    table.add_column("method", no_wrap=True)
    for title in ("trained", "share", "stored", "time", "memory"):
        table.add_column(title, justify="right", no_wrap=True)
    for title in ("fits", "published, for runs like this"):
        table.add_column(title, no_wrap=True)
    for suggestion in found.methods:
        table.add_row(suggestion.method, *_cells(suggestion, found.parameters))
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else _WIDTH, highlight=False).print(table)
    say()
    for suggestion in found.methods:
        for line in _reasons(suggestion):
            say(f"{suggestion.method}: {line}")
    say("\nTime and memory are estimates for default settings, by what a token of each method costs on this machine.")
    say("What fits comes first, then the best published standing beside full fine-tuning, then the fewest bytes.\n")
    if found.train is None:
        say("Nothing fits this machine: take a smaller base, or a larger machine.")
        return
    say(f"try first:     {found.train}")
    if found.compare is not None:
        say(f"on your data:  {found.compare}")


def _cells(suggestion: "Suggestion", parameters: int) -> tuple[str, ...]:
    from petune.cli.compare_table import duration

    if suggestion.fits == "refused":
        return ("", "", "", "", "", "not here", "")
    published = "" if suggestion.standing is None else _STANDINGS[suggestion.standing]
    return (
        f"{suggestion.trainable:,}",
        f"{suggestion.trainable / parameters:.2%}",
        _stored(suggestion.bytes_stored),
        "none" if suggestion.seconds is None else duration(suggestion.seconds),
        f"{suggestion.memory / _GIB:,.1f} GiB",
        suggestion.fits,
        "(baseline)" if suggestion.baseline else published,
    )


def _stored(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB" if size >= 2**20 else f"{size / 2**10:,.1f} KiB"


def _reasons(suggestion: "Suggestion") -> list[str]:
    published = [
        f"{finding.says} ({paper.authors} {paper.year}, {paper.title}, {paper.url})"
        for finding, paper in suggestion.findings
    ]
    return [*published, *([suggestion.why_not] if suggestion.why_not else [])]
