"""What is saved by computing once what never changes, or is the same for many rows.

That is the output of the blocks below an adapter (the trunk cache), the tokens that all rows begin with, virtual
tokens, and, where a model is measured, rows whose loss and label words are wanted.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from race.machine import machine_facts, usable_cores
from torch import Tensor

import petune
from petune.adapted_model import AdaptedModel
from petune.adapter import create_adapter
from petune.data.batching import answer_starts, collate
from petune.data.encoding import IGNORED, Encoded
from petune.data.reviews import movie_reviews, prompt_for, prompt_format
from petune.sites.head import LabelLoss
from petune.training.events import Silent, Step
from petune.training.unpadded import Unpadded

EPOCHS = 3
PARTS = ("trunk", "prefix", "line", "labels")
ROWS_PER_STEP = 16
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


def line(base: petune.Base, data: Path, repeats: int) -> None:
    """Print a line for each method whose rows may lie in one line with what stands in front of them."""
    steps = reviews(base, data)
    tokens = sum(len(row.input_ids) for rows in steps for row in rows) / len(steps)
    print(f"\n| {tokens:.0f} tokens a step | s, padded | in one line | ratio |\n|---|---|---|---|")
    for name, settings in (("lora", {key: LORA[key] for key in ("r", "target_modules")}), ("prompt_tuning", {})):
        model = AdaptedModel(base, [create_adapter(base, name, **settings)])
        adapter = model.adapter("default")
        adapter.set_trainable(True)
        model.train()
        objective = LabelLoss(model.model, model.plugged_into)
        ways = (partial(padded, model, objective), partial(unpadded, Unpadded(model, objective, shares_tokens=True)))
        with model.fast_training():
            for way in ways:
                way(steps[0])
            found = [tuple(timed(way, rows) for way in ways) for _ in range(repeats) for rows in steps]
        model.detach("default")
        apart, together = (statistics.median(seconds) for seconds in zip(*found, strict=True))
        ratio = statistics.median(one / other for one, other in found)
        print(f"| {name} | {apart:.2f} | {together:.2f} | {ratio:.2f} |", flush=True)


def labels(base: petune.Base, data: Path, repeats: int) -> None:
    """Print a line for a measurement by loss and accuracy, each alone and both at once."""
    model = AdaptedModel(base)
    found = []
    for _ in range(repeats + 1):
        parts = [
            petune.evaluate(model, data, metrics=metrics, **prompt_format())
            for metrics in (("loss",), ("accuracy",), ("loss", "accuracy"))
        ]
        loss, words, both = (part.seconds for part in parts)
        found.append((loss + words, both, (loss + words) / both))
    apart, together, ratio = (statistics.median(own) for own in zip(*found[1:], strict=True))
    print("\n| measured | s, one after the other | at once | ratio |\n|---|---|---|---|")
    print(f"| loss and accuracy | {apart:.2f} | {together:.2f} | {ratio:.2f} |", flush=True)


def reviews(base: petune.Base, data: Path) -> list[list[Encoded]]:
    """Return the rows as steps of rows of like lengths."""
    tokens, found = base.tokenizer, []
    for text in data.read_text(encoding="utf-8").splitlines():
        row = json.loads(text)
        prompt, answer = (tokens(part)["input_ids"] for part in (prompt_for(row["text"]), f" {row['label']}"))
        found.append(Encoded([*prompt, *answer], [IGNORED] * len(prompt) + answer, data.name))
    found.sort(key=lambda row: len(row.input_ids))
    return [found[start : start + ROWS_PER_STEP] for start in range(0, len(found), ROWS_PER_STEP)]


def padded(model: AdaptedModel, objective: LabelLoss, rows: Sequence[Encoded]) -> Tensor:
    """Go forward and back over ``rows``, padded; virtual tokens have a pass of their own."""
    batch = collate(rows, pad_token_id=0)
    labels = batch.pop("labels")
    with model.route(["default"] * len(rows)), model.answers_from(answer_starts(rows)):
        losses = objective(batch, labels)
        losses.sum().backward()
    return losses.detach()


def unpadded(way: Unpadded, rows: Sequence[Encoded]) -> Tensor:
    """Go forward and back over ``rows`` end to end, with what stands in front of them in the same line."""
    names = ["default"] * len(rows)
    assert way.suits(list(zip(names, rows, strict=True)))
    with way.losses(names, rows) as losses:
        losses.sum().backward()
    return losses.detach()


def timed(way: Callable[[Sequence[Encoded]], Tensor], rows: Sequence[Encoded]) -> float:
    """Return the seconds that a way takes."""
    began = time.perf_counter()
    way(rows)
    return time.perf_counter() - began


def conversation(row: Mapping[str, str]) -> dict[str, Any]:
    """Return a review and its label as two turns."""
    turns = (("user", row["text"]), ("assistant", row["label"]))
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to time (default: all)")
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
        {"trunk": trunk, "prefix": prefix, "line": line, "labels": labels}[part](base, data, options.repeats)
    return 0


if __name__ == "__main__":
    sys.exit(main())
