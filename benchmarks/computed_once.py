"""What is saved by computing once what never changes: the trunk cache, and the tokens that all rows begin with."""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from race.machine import machine_facts, usable_cores

import petune
from petune.data.reviews import movie_reviews, prompt_format
from petune.training.events import Silent, Step

EPOCHS = 3
PARTS = ("trunk", "prefix")
LORA = {"method": "lora", "r": 8, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}


class Rates(Silent):
    """Keeps the tokens/s of each step."""

    def __init__(self) -> None:
        self.steps: list[float] = []

    def stepped(self, step: Step) -> None:
        """Note a step."""
        self.steps.append(step.tokens_per_second)


def rate_after_the_first_epoch(base: petune.Base, keys: Mapping[str, Any]) -> float:
    """Return the median tokens/s of the second epoch and the later ones."""
    rates = Rates()
    with tempfile.TemporaryDirectory() as folder:
        recipe = {**keys, "num_train_epochs": EPOCHS, "output_dir": f"{folder}/run"}
        petune.train(recipe, base=base, listeners=[rates]).model.detach("default")
    return statistics.median(rates.steps[len(rates.steps) // EPOCHS :])


def compare(
    base: petune.Base, keys: Mapping[str, Any], without: Mapping[str, Any], having: Mapping[str, Any], repeats: int
) -> tuple[float, float]:
    """Return the median tokens/s of both ways, run in turn."""
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for way, rates in zip((without, having), found, strict=True):
            rates.append(rate_after_the_first_epoch(base, {**keys, **way}))
    return statistics.median(found[0]), statistics.median(found[1])


def trunk(base: petune.Base, data: Path, repeats: int) -> None:
    """Print a line for each number of adapted layers, and what the products alone would give."""
    blocks = base.structure.num_blocks
    print("\n| adapted layers | tokens/s without | with the trunk cache | ratio | by products |\n|---|---|---|---|---|")
    for layers in sorted({-(-blocks * sixth // 6) for sixth in (4, 2, 1)}, reverse=True):
        keys = {**prompt_format(), "data": str(data), "method": "llama_adapter", "adapter_layers": layers}
        off, on = compare(base, keys, {"trunk_cache": "off"}, {"trunk_cache": "1GiB"}, repeats)
        share = layers / blocks
        predicted = (1 + share) / (2 * share)  # all blocks forward and some backward, against some both ways
        print(f"| top {layers} of {blocks} | {off:.0f} | {on:.0f} | {on / off:.2f} | {predicted:.2f} |", flush=True)


def prefix(base: petune.Base, data: Path, repeats: int) -> None:
    """Print a line for rows in the base's chat template, which all begin alike."""
    with tempfile.TemporaryDirectory() as folder:
        chat = Path(folder) / "chat.jsonl"
        rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
        chat.write_text("".join(f"{json.dumps(conversation(row))}\n" for row in rows), encoding="utf-8")
        keys = {**LORA, "data": str(chat)}
        off, on = compare(base, keys, {"share_prefix": False}, {"share_prefix": True}, repeats)
    print("\n| rows | tokens/s without | with the shared prefix | ratio |\n|---|---|---|---|")
    print(f"| reviews in the chat template | {off:.0f} | {on:.0f} | {on / off:.2f} |", flush=True)


def conversation(row: Mapping[str, str]) -> dict[str, Any]:
    """Return a review and its label as two turns."""
    turns = (("user", row["text"]), ("assistant", row["label"]))
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to time (default: both)")
    parser.add_argument("--rows", type=int, default=96, help="movie reviews (default 96)")
    parser.add_argument(
        "--repeats", type=int, default=3, help="runs of each way, in turn; medians are told (default 3)"
    )
    parser.add_argument("--threads", type=int, default=usable_cores(), help="threads (default: all cores)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    base = petune.load_base("demo", dtype="bfloat16", device="cpu")
    data = movie_reviews(options.rows, 16).train
    print(f"{machine_facts()['cpu']}, {options.threads} threads, torch {torch.__version__}, {options.rows} rows")
    for part in options.parts:
        {"trunk": trunk, "prefix": prefix}[part](base, data, options.repeats)
    return 0


if __name__ == "__main__":
    sys.exit(main())
