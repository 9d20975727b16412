"""The options of the race's command line, and the size of the race that they ask for."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from race.bases import DEMO, SHAPES
from race.contests import CONTESTS
from race.machine import usable_cores
from race.peers import PEERS
from race.settings import Settings

RESULTS = Path(__file__).resolve().parents[1] / "results" / "race.json"
MANNERS = ("default", "tuned", "compiled")
DTYPES = ("bfloat16", "float32")
SIZES: dict[str, Any] = {"rows": 1600, "timed_steps": 12, "repeats": 5, "compared_steps": 3}
QUICK: dict[str, Any] = {
    "rows": 16,
    "rows_per_step": 4,
    "test_rows": 16,
    "timed_steps": 2,
    "warm_up_steps": 1,
    "repeats": 1,
    "compared_steps": 2,
    "measured_every": 1,
}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog="race.py", description="petune against its peers, method by method.")
    parser.add_argument(
        "--methods", nargs="+", choices=CONTESTS, default=list(CONTESTS), help="contests (default: all)"
    )
    parser.add_argument("--peers", nargs="*", choices=PEERS, help="who else runs (default: all who can there)")
    parser.add_argument(
        "--manners", nargs="+", choices=MANNERS, default=("default", "tuned"), help="how peers run (default: two)"
    )
    parser.add_argument("--compile", action="store_true", help="petune with compiled blocks too, beside the plain one")
    parser.add_argument(
        "--same-rows", action="store_true", help="peers that run as they come take petune's rows in each step too"
    )
    parser.add_argument("--prepare", action="store_true", help="build the peers' environments with pip, and stop")
    parser.add_argument(
        "--environment", action="append", default=[], metavar="PEER=PYTHON", help="a peer's interpreter, yours"
    )
    parser.add_argument("--data", help="training rows (JSON Lines; default: movie reviews)")
    parser.add_argument("--test-data", help="held-out rows that go with --data")
    parser.add_argument("--rows", type=int, help=f"training rows, a multiple of 16 (default {SIZES['rows']})")
    parser.add_argument("--test-rows", type=int, help="held-out rows (default 500)")
    parser.add_argument("--steps-timed", type=int, help=f"steps of one timing (default {SIZES['timed_steps']})")
    parser.add_argument("--repeats", type=int, help=f"timings of each entry (default {SIZES['repeats']})")
    parser.add_argument("--to-loss", type=float, help="train to this held-out loss too, and tell the seconds")
    parser.add_argument("--rows-per-step", type=int, help="rows of a step (default 16)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where everybody trains (default cpu)")
    parser.add_argument(
        "--base", choices=(DEMO, *SHAPES), default=DEMO, help="SmolLM2, or random weights of a shape (default smollm2)"
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, default=DTYPES[0], help=f"precision of the base (default {DTYPES[0]})"
    )
    parser.add_argument("--threads", type=int, default=usable_cores(), help="threads (default: all cores)")
    parser.add_argument("--quick", action="store_true", help="a small edition: minutes, nothing but correctness judged")
    parser.add_argument(
        "--output",
        type=Path,
        default=RESULTS,
        help="results (JSON; .txt and .png beside); what they hold runs not again",
    )
    options = parser.parse_args(arguments)
    if options.peers is None:
        options.peers = [name for name, peer in PEERS.items() if options.device == "cuda" or not peer.needs_card]
    strange = [entry for entry in options.environment if entry.partition("=")[0] not in PEERS or "=" not in entry]
    if strange:
        parser.error(f"--environment {strange[0]}: give PEER=PYTHON with a peer of {', '.join(PEERS)}")
    return options


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
        "rows_per_step": options.rows_per_step,
        "threads": options.threads,
        "data": options.data,
        "test_data": options.test_data,
        "device": options.device,
        "base": options.base,
        "dtype": options.dtype,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    settings = Settings(**{**SIZES, **(QUICK if options.quick else {}), **given})
    small = [name for name, value in given.items() if isinstance(value, int) and value < 1]
    if small:
        raise SystemExit(f"{', '.join(small)}: give whole numbers of 1 or more")
    if settings.rows % settings.rows_per_step:
        raise SystemExit(f"--rows {settings.rows}: give a multiple of {settings.rows_per_step}")
    if options.to_loss is not None and options.data is not None and options.test_data is None:
        raise SystemExit("--to-loss needs held-out rows: give --test-data with --data")
    return settings
