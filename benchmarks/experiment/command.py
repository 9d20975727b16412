"""The command: prepare the texts, run the parts, keep their records, and write the page."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiment import texts
from experiment.counts import answer_counts
from experiment.page import PAGE, page
from experiment.parts import PARTS, SCALES, Scale, parts_of, recipe_of
from experiment.records import RESULTS, Facts, Records, write
from petune.cli.compare_table import PlainLines, duration, print_plan
from petune.comparison import run
from petune.comparison.folder import COMPARISON
from petune.errors import PetuneError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing of the parts, and write their records and the page."""
    options = _parse(arguments)
    scale: Scale = options.scale
    if options.page:
        _write_page()
        return 0
    parts = options.parts or parts_of(scale)
    try:
        facts = Facts.model_validate(texts.prepare())
        if options.plan:
            return _plan(parts, scale)
        for part in parts:
            _run(part, scale, options.results / scale, facts)
    except PetuneError as error:
        print(f"petune: {error}", file=sys.stderr)
        return error.exit_code
    if options.results == RESULTS and scale != "smoke":
        _write_page()
    return 0


def _run(part: str, scale: Scale, results: Path, facts: Facts) -> None:
    """Run what is missing of a part; its record is written when it is whole."""
    keys = recipe_of(part, scale)
    output = Path(keys["output_dir"])
    print(f"{PARTS[part]}:", flush=True)
    comparison = run.compare(keys, resume=(output / COMPARISON).is_file(), watcher=PlainLines())
    write(comparison, results / f"{part}.json")
    if part == "dialogues_chinese":
        counts = answer_counts(keys, output / "data" / "test.jsonl", str(texts.FOLDER / "tokens.txt"))
        facts = facts.model_copy(
            update={
                "label_tokens": counts.tokens,
                "label_tokens_extended": counts.extended,
                "characters": counts.characters,
            }
        )
        (results / "facts.json").write_text(facts.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _plan(parts: Sequence[str], scale: Scale) -> int:
    """Print what the parts would run, and how long that takes here."""
    seconds = 0.0
    for part in parts:
        print(f"\n{PARTS[part]}:", flush=True)
        keys = recipe_of(part, scale)
        begun = (Path(keys["output_dir"]) / COMPARISON).is_file()
        planned = run.plan(keys, resume=begun, watcher=PlainLines())
        print_plan(planned)
        seconds += planned.progress.seconds_left
    print(f"\nAll parts: about {duration(seconds)} here.")
    return 0


def _write_page() -> None:
    PAGE.write_text(page({scale: Records.read(RESULTS / scale) for scale in ("full", "small")}), encoding="utf-8")
    print(f"written: {PAGE}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Check published claims about tuning methods at a small scale.")
    parser.add_argument(
        "--scale", choices=SCALES, default="full", help="edition: full (3 hours), small (75 min), smoke"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="default: all of the edition")
    parser.add_argument("--plan", action="store_true", help="print what would run and how long it takes, run nothing")
    parser.add_argument(
        "--page", action="store_true", help="write docs/experiment.md anew from the records, run nothing"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the records")
    return parser.parse_args(arguments)
