"""petune against HF PEFT and transformers' Trainer: the same LoRA, the same rows, the same machine, in turn."""

import argparse
import importlib.util
import json
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from race import gates, quality, speed, table
from race.machine import load_average, machine_facts, usable_cores
from race.processes import run_worker
from race.settings import QUICK, Settings
from race.work import Work

PARTS = ("gates", "speed", "quality")
RESULTS = Path(__file__).parent / "results" / "against_peft.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the race; return 0 where every gate and bar is met, 1 where one is missed."""
    options = parse(arguments)
    if importlib.util.find_spec("peft") is None:
        print("HF PEFT is not installed: pip install 'petune[peers]'", file=sys.stderr)
        return 2
    settings = settings_of(options)
    results: dict[str, Any] = {"date": datetime.now(UTC).strftime("%Y-%m-%d"), "quick": options.quick}
    results |= {"settings": settings.to_dict(), "machine": machine_facts()}
    rows: dict[str, list[table.Row]] = {}
    with tempfile.TemporaryDirectory(prefix="petune-race-") as folder:
        work = Work(Path(folder))
        work.write_settings(settings)
        tell("Making the work: model, token ids, order of the rows, first adapter.")
        results["work"] = run_worker(work, "prepare", settings.threads)
        results["load_average_before"] = load_average()
        for part in PARTS:
            if part in options.parts:
                rows[part] = RUN[part](work, results)
            if missed(rows.get("gates", [])):
                tell("A gate is missed: timings of programs that compute different things say nothing.")
                break
    results["load_average_after"] = load_average()
    everything = [row for part in rows.values() for row in part]
    results["rows"] = [row.to_dict() for row in everything]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"\n{describe(results)}\n\n{table.render(everything)}")
    # The quick edition is too short for its timings and its accuracy to be judged.
    return 1 if missed(rows.get("gates", []) if options.quick else everything) else 0


def missed(rows: Sequence[table.Row]) -> bool:
    """Say whether a row falls short of its bar."""
    return any(row.met is False for row in rows)


def run_gates(work: Work, results: dict[str, Any]) -> list[table.Row]:
    """Check that both sides compute the same."""
    tell("Correctness: the first steps of both sides, in float32 and in bfloat16.")
    compared = gates.compare(work)
    judged = gates.judge(compared, work.tokens_of_steps(), work.settings)
    results["gates"] = [gate.to_dict() for gate in judged]
    results["losses"] = compared.to_dict()
    return table.gate_rows(judged)


def run_speed(work: Work, results: dict[str, Any]) -> list[table.Row]:
    """Time both sides."""
    tell("Speed and memory: each timing in a fresh process, the sides in turn.")
    results["timings"] = speed.race(work, tell)
    return table.speed_rows(results["timings"])


def run_quality(work: Work, results: dict[str, Any]) -> list[table.Row]:
    """Train both sides for one pass and measure them."""
    tell("Quality: one pass over the training rows, then the held-out rows.")
    results["quality"] = quality.compare(work, tell)
    return table.quality_rows(results["quality"])


RUN = {"gates": run_gates, "speed": run_speed, "quality": run_quality}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, help="training reviews, a multiple of 16 (default 2000)")
    parser.add_argument("--test-rows", type=int, help="held-out reviews (default 500)")
    parser.add_argument("--steps-timed", type=int, help="optimiser steps of one timing (default 12)")
    parser.add_argument("--repeats", type=int, help="timings of each side (default 3)")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="threads (default: all cores)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to run (default: all)")
    parser.add_argument("--quick", action="store_true", help="a small edition: minutes, timings not judged")
    parser.add_argument("--output", type=Path, default=RESULTS, help="file of the results (JSON)")
    return parser.parse_args(arguments)


def settings_of(options: argparse.Namespace) -> Settings:
    """Return the size of the race: what was asked for, else the edition's own.

    Raises:
        SystemExit: a number makes no race.
    """
    asked = {
        "rows": options.rows,
        "test_rows": options.test_rows,
        "timed_steps": options.steps_timed,
        "repeats": options.repeats,
        "threads": options.threads,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    settings = Settings(**{**(QUICK if options.quick else {}), **given})
    if settings.rows % settings.rows_per_step:
        raise SystemExit(f"--rows {settings.rows}: give a multiple of {settings.rows_per_step}")
    small = [name for name, value in given.items() if value < 1]
    if small:
        raise SystemExit(f"{', '.join(small)}: give whole numbers of 1 or more")
    return settings


def describe(results: dict[str, Any]) -> str:
    """Return what was raced, and on what."""
    machine, work = results["machine"], results["work"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB,"
        f" load {results['load_average_before']} before and {results['load_average_after']} after\n{versions}\n"
        f"{work['rows']:,} rows, {work['tokens']:,} tokens ({work['label_tokens']:,} learned),"
        f" file of token ids {work['tokens_sha256'][:16]}"
    )


def tell(text: str) -> None:
    """Say what is going on."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
