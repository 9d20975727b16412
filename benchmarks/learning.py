"""Does every method learn with its own defaults? Each trains on real text and is measured on held-out rows.

The works are: movie reviews with SmolLM2, which writes the label; movie reviews and Chinese entities with MiniLM, an
encoder, and a head that starts at random.
"""

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
from works.work import WORKS, Rows, Work

import petune
from petune.backbone.base import Base
from petune.methods import get, names

RESULTS = Path(__file__).parent / "results"
FLOOR = "untrained"


def main(arguments: Sequence[str] | None = None) -> int:
    """Train every method with every seed on each work; return 1 where one does not beat the untrained base."""
    options = parse(arguments)
    return max(_learned(WORKS[name], options) for name in options.work)


def _learned(work: Work, options: argparse.Namespace) -> int:
    """Train on one work and print its table."""
    print(f"{work.title}:", flush=True)
    model, dtype = work.model(), options.dtype or work.dtype
    methods = _possible(work, model, options.methods)
    settings = {"rows": options.rows, "test_rows": options.test_rows, "dtype": dtype}
    if work.task != "causal_lm":
        settings |= {"task": work.task, "epochs": work.epochs}
    if options.max_steps is not None:
        settings["max_steps"] = options.max_steps
    path = options.output / work.results
    results = _results(path, settings)
    rows = work.rows(options.rows, options.test_rows)
    base = None if work.labels else petune.load_base(model, dtype=dtype)
    if FLOOR not in results["runs"]:
        bare = base or petune.load_base(model, task=work.task, labels=work.labels, dtype=dtype, seed=options.first_seed)
        results["runs"][FLOOR] = {"0": {work.metric: measure(petune.load(None, base=bare), work, rows)}}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for method in methods:
            done = results["runs"].setdefault(method, {})
            if str(seed) not in done:
                done[str(seed)] = learn(work, model, base, method, seed, rows, dtype=dtype, steps=options.max_steps)
                print(f"{method}, seed {seed}: {work.metric} {done[str(seed)][work.metric]:.3f}", flush=True)
            _write(path, results)
    print(render(results["runs"], methods, work.metric))
    floor = results["runs"][FLOOR]["0"][work.metric]
    return int(any(mean(results["runs"][method], work.metric) <= floor for method in methods))


def _possible(work: Work, model: str, wanted: Sequence[str]) -> list[str]:
    """Return those of the methods that can learn the work, and say why others cannot."""
    head = {"task": work.task, "labels": work.labels} if work.labels else {}
    refused = {info.name: info.refused for info in petune.list_methods(model, **head) if info.refused}
    refused |= {name: "it trains nothing" for name in wanted if not get(name).trains}
    for method in [name for name in wanted if name in refused]:
        print(f"{method} is left out: {refused[method]}")
    return [name for name in wanted if name not in refused]


def learn(
    work: Work,
    model: str,
    base: Base | None,
    method: str,
    seed: int,
    rows: Rows,
    *,
    dtype: str,
    steps: int | None = None,
) -> dict[str, Any]:
    """Train one adapter, 16 rows a step, and measure it; without a base, one whose head starts from the seed."""
    with tempfile.TemporaryDirectory(prefix="petune-learning-") as folder:
        recipe = {**work.reading, "method": method, "data": str(rows.train), "seed": seed, "model": model}
        sizes = {"num_train_epochs": work.epochs, "per_device_train_batch_size": 16, "output_dir": f"{folder}/run"}
        if base is None:
            base = petune.load_base(model, task=work.task, labels=work.labels, dtype=dtype, seed=seed)
        done = petune.train({**recipe, **sizes, "max_steps": steps}, base=base)
        summary = json.loads((done.output_dir / "train_results.json").read_text(encoding="utf-8"))
        size = sum(file.stat().st_size for file in done.output_dir.glob("*.safetensors"))
    found = {
        work.metric: measure(done.model, work, rows),
        "trainable_parameters": done.model.adapter("default").num_parameters(),
        "bytes": size,
        "loss": done.train_loss,
        "steps": done.steps,
        "learning_rate": summary["learning_rate"],
    }
    done.model.detach("default")
    return found


def measure(model: petune.AdaptedModel, work: Work, rows: Rows) -> float:
    """Return the work's metric on the held-out rows."""
    return float(petune.evaluate(model, str(rows.test), metrics=[work.metric], **work.reading).metrics[work.metric])


def mean(runs: dict[str, dict[str, Any]], key: str) -> float:
    """Return the mean over the seeds."""
    return statistics.fmean(run[key] for run in runs.values())


def render(runs: dict[str, dict[str, dict[str, Any]]], methods: Sequence[str], metric: str) -> str:
    """Return the table, in Markdown."""
    headings = ("method", "learning rate", "trainable", "bytes", metric.replace("_", " "), "least", "seeds", "loss")
    lines = [f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"]
    lines.append(f"| {FLOOR} | | 0 | 0 | {runs[FLOOR]['0'][metric]:.3f} | | | |")
    for method in methods:
        first, several = next(iter(runs[method].values())), runs[method]
        cells = (
            f"{method}",
            f"{first['learning_rate']:g}",
            f"{first['trainable_parameters']:,}",
            f"{first['bytes']:,}",
            f"{mean(several, metric):.3f}",
            f"{min(run[metric] for run in several.values()):.3f}",
            f"{len(several)}",
            f"{mean(several, 'loss'):.3f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", nargs="+", choices=WORKS, default=list(WORKS), help="default: all")
    parser.add_argument("--methods", nargs="+", choices=names(), default=names(), help="default: all")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each method (default 3)")
    parser.add_argument("--first-seed", type=int, default=1, help="seed of the first run (default 1)")
    parser.add_argument("--rows", type=int, default=2000, help="rows to learn (default 2000)")
    parser.add_argument("--test-rows", type=int, default=500, help="held-out rows (default 500)")
    parser.add_argument("--max-steps", type=int, help="stop each run after so many steps: a trial, not a measurement")
    parser.add_argument("--dtype", help="precision of the base (default: bfloat16 for SmolLM2, float32 for MiniLM)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of results; runs in it are not repeated")
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
