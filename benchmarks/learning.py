"""Does every method learn with its own defaults? Each trains on real reviews and is measured on held-out ones."""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from race.machine import machine_facts

import petune
from petune.backbone.base import Base
from petune.data.reviews import Reviews, movie_reviews, prompt_format
from petune.methods import names

RESULTS = Path(__file__).parent / "results" / "learning.json"
HEADINGS = ("method", "learning rate", "trainable", "bytes", "accuracy", "least", "loss", "seconds")
FLOOR = "untrained"


def main(arguments: Sequence[str] | None = None) -> int:
    """Train every method with every seed; return 1 where one does not beat the untrained base."""
    options = parse(arguments)
    refused = {info.name: info.refused for info in petune.list_methods("demo") if info.refused}
    methods = [method for method in options.methods if method not in refused]
    for method in set(options.methods) & refused.keys():
        print(f"{method} is left out: {refused[method]}")
    settings = {"rows": options.rows, "test_rows": options.test_rows, "dtype": options.dtype}
    results = _results(options.output, settings)
    reviews = movie_reviews(options.rows, options.test_rows)
    base = petune.load_base("demo", dtype=options.dtype)
    if FLOOR not in results["runs"]:
        results["runs"][FLOOR] = {"0": {"accuracy": accuracy(petune.load(None, base=base), reviews)}}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for method in methods:
            done = results["runs"].setdefault(method, {})
            if str(seed) not in done:
                done[str(seed)] = learn(base, method, seed, reviews)
                print(f"{method}, seed {seed}: accuracy {done[str(seed)]['accuracy']:.3f}", flush=True)
            _write(options.output, results)
    print(render(results["runs"], methods))
    floor = results["runs"][FLOOR]["0"]["accuracy"]
    return int(any(mean(results["runs"][method], "accuracy") <= floor for method in methods))


def learn(base: Base, method: str, seed: int, reviews: Reviews) -> dict[str, Any]:
    """Train one adapter for one pass over the rows, 16 a step, and measure it."""
    with tempfile.TemporaryDirectory(prefix="petune-learning-") as folder:
        recipe = {**prompt_format(), "method": method, "data": str(reviews.train), "seed": seed}
        sizes = {"num_train_epochs": 1, "per_device_train_batch_size": 16, "output_dir": f"{folder}/run"}
        done = petune.train({**recipe, **sizes}, base=base)
        summary = json.loads((done.output_dir / "train_results.json").read_text(encoding="utf-8"))
        size = sum(file.stat().st_size for file in done.output_dir.glob("*.safetensors"))
    found = {
        "accuracy": accuracy(done.model, reviews),
        "trainable_parameters": done.model.adapter("default").num_parameters(),
        "bytes": size,
        "loss": done.train_loss,
        "seconds": done.seconds,
        "steps": done.steps,
        "learning_rate": summary["learning_rate"],
    }
    done.model.detach("default")
    return found


def accuracy(model: petune.AdaptedModel, reviews: Reviews) -> float:
    """Return the share of held-out reviews whose label word is the more probable one."""
    return float(petune.evaluate(model, str(reviews.test), **prompt_format()).metrics["accuracy"])


def mean(runs: dict[str, dict[str, Any]], key: str) -> float:
    """Return the mean over the seeds."""
    return statistics.fmean(run[key] for run in runs.values())


def render(runs: dict[str, dict[str, dict[str, Any]]], methods: Sequence[str]) -> str:
    """Return the table, in Markdown."""
    lines = [f"| {' | '.join(HEADINGS)} |", f"|{'---|' * len(HEADINGS)}"]
    lines.append(f"| {FLOOR} | | 0 | 0 | {runs[FLOOR]['0']['accuracy']:.3f} | | | |")
    for method in methods:
        first, several = next(iter(runs[method].values())), runs[method]
        cells = (
            f"{method}",
            f"{first['learning_rate']:g}",
            f"{first['trainable_parameters']:,}",
            f"{first['bytes']:,}",
            f"{mean(several, 'accuracy'):.3f}",
            f"{min(run['accuracy'] for run in several.values()):.3f}",
            f"{mean(several, 'loss'):.3f}",
            f"{mean(several, 'seconds'):.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", choices=names(), default=names(), help="default: all")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each method (default 3)")
    parser.add_argument("--first-seed", type=int, default=1, help="seed of the first run (default 1)")
    parser.add_argument("--rows", type=int, default=2000, help="training reviews (default 2000)")
    parser.add_argument("--test-rows", type=int, default=500, help="held-out reviews (default 500)")
    parser.add_argument("--dtype", default="bfloat16", help="precision of the base (default bfloat16)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="file of the results; runs in it are not repeated")
    return parser.parse_args(arguments)


def _results(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what an earlier call measured with the same settings, or a fresh record.

    Raises:
        SystemExit: the file holds runs of other settings.
    """
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if found["settings"] != settings:
            raise SystemExit(f"{path} holds runs with {found['settings']}; choose another --output, or remove it")
        return found
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    return {"date": today, "settings": settings, "machine": machine_facts(), "runs": {}}


def _write(path: Path, results: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
