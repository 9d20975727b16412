"""How fast LoRA trains and writes on CPUs with fewer instructions than this one, in float32 and in bfloat16.

PyTorch's library of products (oneDNN) is told to use no more than what an older CPU has; each way runs in a process of
its own.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from computed_once import LORA, reviews, unpadded
from race.machine import machine_facts, usable_cores

import petune
from petune.adapted_model import AdaptedModel
from petune.adapter import create_adapter
from petune.data.reviews import movie_reviews
from petune.kernels import wide_products
from petune.sites.head import LabelLoss
from petune.training.unpadded import Unpadded

CPUS = {"AVX2": "AVX2", "AVX-512": "AVX512_CORE", "this one": "DEFAULT"}
"""What oneDNN calls what a CPU has."""
WAYS = {
    "float32": ("float32", True),
    "bfloat16": ("bfloat16", True),
    "bfloat16, products always as they are": ("bfloat16", False),
}
"""The precision of the base, and whether products may be computed in another."""
STEPS = 3
NEW_TOKENS = 32


def training_rate(model: AdaptedModel) -> float:
    """Return the median tokens/s of steps of 16 reviews."""
    steps = reviews(model.base, movie_reviews(96, 16).train)[1 : STEPS + 2]
    model.train()
    objective = LabelLoss(model.model, model.plugged_into)
    step = partial(unpadded, Unpadded(model, objective, shares_tokens=True))
    rates = []
    with model.fast_training():
        for rows in steps:
            began = time.perf_counter()
            step(rows)
            rates.append(sum(len(row.input_ids) for row in rows) / (time.perf_counter() - began))
    return statistics.median(rates[1:])


def generation_rate(rows: int, model: AdaptedModel) -> float:
    """Return how many tokens/s are written behind so many reviews at once, reading them included."""
    lines = movie_reviews(96, 16).train.read_text(encoding="utf-8").splitlines()[:rows]
    prompts = [json.loads(line)["text"] for line in lines]
    petune.generate(model, prompts, max_new_tokens=2)
    began = time.perf_counter()
    answers = petune.generate(model, prompts, max_new_tokens=NEW_TOKENS)
    return sum(answer.num_tokens for answer in answers) / (time.perf_counter() - began)


WORKS: dict[str, Callable[[AdaptedModel], float]] = {
    "training": training_rate,
    "generation of 1 row": partial(generation_rate, 1),
    "generation of 16 rows": partial(generation_rate, 16),
}


def rate(work: str, way: str, threads: int) -> dict[str, float | int]:
    """Return the tokens/s of a work and a way in this process, and whether products of halves were in float32."""
    torch.set_num_threads(threads)
    dtype, may_differ = WAYS[way]
    if not may_differ:
        wide_products._least_rows.update(dict.fromkeys(wide_products.HALVES, wide_products.NEVER))
    base = petune.load_base("demo", dtype=dtype, device="cpu")
    model = AdaptedModel(base, [create_adapter(base, "lora", r=LORA["r"], target_modules=LORA["target_modules"])])
    model.adapter("default").set_trainable(True)
    least = wide_products.NEVER if dtype == "float32" else wide_products.least_rows(torch.bfloat16)
    return {"tokens_per_second": WORKS[work](model), "least_rows": least}


def in_a_process(cpu: str, work: str, way: str, threads: int) -> dict[str, float | int]:
    """Return what :func:`rate` finds in a process that sees the instructions of ``cpu``."""
    command = [sys.executable, __file__, "--only", work, way, "--threads", str(threads)]
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": CPUS[cpu]}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    found: dict[str, float | int] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each work, a line for each CPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpus", nargs="+", choices=CPUS, default=list(CPUS), help="which to be (default: all)")
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS), help="what to do (default: all)")
    parser.add_argument(
        "--repeats", type=int, default=3, help="runs of each way, in turn; medians are told (default 3)"
    )
    parser.add_argument("--threads", type=int, default=usable_cores(), help="threads (default: all cores)")
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.only is not None:
        print(json.dumps(rate(*options.only, options.threads)))
        return 0
    print(
        f"{machine_facts()['cpu']}, {options.threads} threads, torch {torch.__version__}; tokens/s with LoRA on reviews"
    )
    for work in options.works:
        print(f"\n{work}\n")
        print(
            f"| instructions | {' | '.join(WAYS)} | rows of halves are multiplied in |\n|---|{'---|' * (len(WAYS) + 1)}"
        )
        for cpu in options.cpus:
            print(line(cpu, work, options.repeats, options.threads), flush=True)
    return 0


def line(cpu: str, work: str, repeats: int, threads: int) -> str:
    """Return a CPU's line of the table of a work."""
    found = [[in_a_process(cpu, work, way, threads) for way in WAYS] for _ in range(repeats)]
    medians = [statistics.median(run[number]["tokens_per_second"] for run in found) for number in range(len(WAYS))]
    least = sorted({int(run[1]["least_rows"]) for run in found})
    kind = " or ".join("half precision" if rows == wide_products.NEVER else f"float32 from {rows} on" for rows in least)
    return f"| {cpu} | {' | '.join(f'{median:.{0 if median >= 20 else 1}f}' for median in medians)} | {kind} |"


if __name__ == "__main__":
    sys.exit(main())
