"""Times attention for training on CPU: batched products against PyTorch's kernel, by length, in one run."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import torch
from race.machine import machine_facts, usable_cores
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from petune.kernels.attention import product_attention

HEADS, GROUPS, WIDTH = 9, 3, 64
TOKENS = 1024
LENGTHS = (16, 32, 64, 128, 256, 512, 1024)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print milliseconds of forward and backward for batches of 1,024 tokens."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=usable_cores(), help="threads (default: all cores)")
    parser.add_argument("--repeats", type=int, default=12, help="timings of each, the best one counts (default 12)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    print(f"{machine_facts()['cpu']}, {options.threads} threads, torch {torch.__version__}")
    print(f"{HEADS} heads, {GROUPS} key-value heads of width {WIDTH}, {TOKENS:,} tokens; forward and backward, ms\n")
    print("| precision | rows x length | PyTorch | products | ratio |\n|---|---|---|---|---|")
    for dtype in (torch.bfloat16, torch.float32):
        for length in LENGTHS:
            peer, ours = race(dtype, length, options.repeats)
            shape = f"{TOKENS // length} x {length}"
            name = str(dtype).removeprefix("torch.")
            print(f"| {name} | {shape} | {1e3 * peer:.1f} | {1e3 * ours:.1f} | {peer / ours:.2f} |", flush=True)
    return 0


def race(dtype: torch.dtype, length: int, repeats: int) -> tuple[float, float]:
    """Return the best seconds of PyTorch's kernel and of the products, timed in turn."""
    rows = TOKENS // length
    query, key, value = (
        torch.randn(rows, length, heads, WIDTH, dtype=dtype).transpose(1, 2).requires_grad_()
        for heads in (HEADS, GROUPS, GROUPS)
    )
    seen = torch.ones(rows, 1, length, length, dtype=torch.bool).tril()
    pull = torch.randn(rows, length, HEADS, WIDTH, dtype=dtype)

    def peer() -> Tensor:
        wide = (t[:, :, None].expand(-1, -1, HEADS // GROUPS, -1, -1).flatten(1, 2) for t in (key, value))
        return scaled_dot_product_attention(query, *wide, attn_mask=seen, scale=WIDTH**-0.5).transpose(1, 2)

    def ours() -> Tensor:
        return product_attention(query, key, value, seen, WIDTH**-0.5)

    best = [float("inf"), float("inf")]
    for repeat in range(repeats + 2):
        for side, run in enumerate((peer, ours)):
            seconds = _timed(run, pull)
            if repeat >= 2:
                best[side] = min(best[side], seconds)
    return best[0], best[1]


def _timed(run: Callable[[], Tensor], pull: Tensor) -> float:
    began = time.perf_counter()
    run().backward(pull)
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
