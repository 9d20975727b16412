"""Continues prompts with one adapter: petune against HF PEFT's `generate`, the same tokens first, then the time."""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from race.environments import find_python
from race.kept import kept
from race.machine import load_average, machine_facts, usable_cores
from race.peers import PEERS
from race.processes import WorkerError, run_worker
from race.settings import Settings
from race.spread import Spread
from race.work import Work

RESULTS = Path(__file__).parent / "results" / "generation.json"
METHODS = ("lora", "lora_all_linear", "prompt_tuning", "prefix_tuning", "llama_adapter")
SPEED_BAR = 2.0
"""petune's tokens a second as a multiple of PEFT's as it comes."""
END = "<reponame>"
"""Ends a text in the raced base; nobody writes it, so that all rows get as many tokens."""
MIB = 2**20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; return 0 where the texts agree and the bar is met, 1 where not."""
    options = parse(arguments)
    results: dict[str, Any] = {"quick": options.quick, "rows": options.rows, "new_tokens": options.new_tokens}
    results |= {"repeats": options.repeats, "manners": list(options.manners), "threads": options.threads}
    results |= {"machine": machine_facts()}
    results["methods"] = kept(options.output, "methods", results)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="petune-generation-") as folder:
        work = Work(Path(folder))
        work.write_settings(Settings(threads=options.threads))
        bench = Bench(work, options)
        for method in options.methods:
            if method in results["methods"]:
                print(f"{method}: timed before, see {options.output}.", flush=True)
                continue
            results["methods"][method] = bench.race(method)
            options.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(
        f"\n{results['machine']['cpu']}, {options.threads} threads, {options.rows} rows, {options.new_tokens} tokens\n"
    )
    print(table(results["methods"]))
    return int(any(not met(found, judged=not options.quick) for found in results["methods"].values()))


class Bench:
    """Runs the workers.

    Args:
        work: a folder for what they read and write.
        options: the command line's.
    """

    def __init__(self, work: Work, options: argparse.Namespace) -> None:
        self._work = work
        self._options = options
        self._python = Path(options.peft_python) if options.peft_python else find_python("peft", PEERS["peft"])

    def race(self, method: str) -> dict[str, Any]:
        """Return whether both sides write the same in float32, and their timings in bfloat16, in turn.

        PEFT is asked for each text alone: with a soft prompt, what it writes after a prompt depends on the others.
        """
        found: dict[str, Any] = {"date": datetime.now(UTC).strftime("%Y-%m-%d"), "load_average_before": load_average()}
        start = {"contest": method, "rows": self._options.rows, "end": END}
        prompts = run_worker(self._work, "generation_start", self._options.threads, **start)["prompts"]
        ours, theirs = (
            self._run(side, method, prompts, "float32", repeats=0)["texts"] for side in ("petune", "default")
        )
        same = sum(a == b for a, b in zip(ours, theirs, strict=True))
        print(f"{method}: {same} of {len(prompts)} texts are the same in float32", flush=True)
        timings = []
        for repeat in range(self._options.repeats):
            for side in ("petune", *self._options.manners):
                report = self._run(side, method, prompts, "bfloat16", repeats=1)
                speed = sum(report["tokens"]) / min(report["seconds"])
                timings.append({"side": side, "repeat": repeat, "tokens_per_second": speed, "peak": report["peak"]})
                print(f"  {method}, {side}, repeat {repeat + 1}: {speed:.0f} tokens/s", flush=True)
        found |= {"same_texts": same, "rows": len(prompts), "timings": timings}
        return {**found, "load_average_after": load_average()}

    def _run(self, side: str, method: str, prompts: list[str], dtype: str, *, repeats: int) -> dict[str, Any]:
        asked = {"contest": method, "prompts": prompts, "dtype": dtype, "repeats": repeats, "manner": side}
        asked |= {"new_tokens": self._options.new_tokens, "one_by_one": not repeats}
        if side == "petune":
            return run_worker(self._work, "petune_generation", self._options.threads, **asked)
        return run_worker(self._work, "peft_generation", self._options.threads, python=self._python, **asked)


def speeds(found: Mapping[str, Any]) -> dict[str, tuple[Spread, Spread | None, float]]:
    """Return each side's tokens a second, petune's as a multiple of it, and the median of its peak memory."""
    own = {t["repeat"]: t["tokens_per_second"] for t in found["timings"] if t["side"] == "petune"}
    rows = {}
    for side in dict.fromkeys(timing["side"] for timing in found["timings"]):
        timings = [timing for timing in found["timings"] if timing["side"] == side]
        rates = Spread.of([t["tokens_per_second"] for t in timings])
        ratio = Spread.of([own[t["repeat"]] / t["tokens_per_second"] for t in timings])
        rows[side] = (rates, None if side == "petune" else ratio, Spread.of([t["peak"] for t in timings]).median)
    return rows


def met(found: Mapping[str, Any], *, judged: bool) -> bool:
    """Say whether a method's texts are the same and, where timings are judged, petune is fast enough."""
    ratio = speeds(found).get("default", (None, None, 0))[1]
    slow = judged and ratio is not None and ratio.median < SPEED_BAR
    return found["same_texts"] == found["rows"] and not slow


def table(methods: Mapping[str, Any]) -> str:
    """Return the table, in Markdown."""
    lines = ["| adapter | side | tokens/s | petune against it | bar | peak, MiB | same texts, float32 |"]
    lines.append("|---|---|---|---|---|---|---|")
    for method, found in methods.items():
        for side, (rates, ratio, peak) in speeds(found).items():
            bar = f"x {SPEED_BAR:g}" if side == "default" else ""
            against = "" if ratio is None else f"x {ratio.text()}"
            same = f"{found['same_texts']} of {found['rows']}" if side == "petune" else ""
            name = side if side == "petune" else f"PEFT, {side}"
            lines.append(
                f"| {method} | {name} | {rates.text('.0f')} | {against} | {bar} | {peak / MIB:,.0f} | {same} |"
            )
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="adapters (default: all)")
    parser.add_argument("--manners", nargs="+", choices=("default", "tuned"), default=["default", "tuned"])
    parser.add_argument("--rows", type=int, help="prompts of the batch (default 16)")
    parser.add_argument("--new-tokens", type=int, help="tokens of each answer (default 64)")
    parser.add_argument("--repeats", type=int, help="timings of each side (default 5)")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="threads (default: all cores)")
    parser.add_argument("--peft-python", help="interpreter with HF PEFT (default: the race's environment, or this one)")
    parser.add_argument("--quick", action="store_true", help="a small edition: a minute, timings not judged")
    parser.add_argument("--output", type=Path, default=RESULTS, help="results (JSON); methods it holds run not again")
    options = parser.parse_args(arguments)
    small = {"rows": 2, "new_tokens": 4, "repeats": 1} if options.quick else {}
    for name, value in {"rows": 16, "new_tokens": 64, "repeats": 5, **small}.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if min(options.rows, options.new_tokens, options.repeats, options.threads) < 1:
        raise SystemExit("give whole numbers of 1 or more")
    return options


if __name__ == "__main__":
    try:
        sys.exit(main())
    except WorkerError as error:
        sys.exit(str(error))
