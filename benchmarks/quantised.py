"""Memory and speed of one base, plain and kept as blocks: each in fresh processes, in turn."""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import cast

import torch
from race.machine import machine_facts, usable_cores

from petune import AdaptedModel, create_adapter, load_base
from petune.backbone.packed_weight import stored_bytes
from petune.backbone.quantization_names import QUANTIZATIONS, Quantization
from petune.sites.head import LabelLoss

PLAIN = "plain"
ROWS, LENGTH, WRITTEN = 16, 64, 8

Figures = dict[str, float]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print megabytes and tokens a second of LoRA training and of generation, for each way to keep the base."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo", help="base model (default demo)")
    parser.add_argument("--dtype", default="bfloat16", help="precision (default bfloat16)")
    parser.add_argument("--kept", nargs="+", default=[PLAIN, *QUANTIZATIONS], help="ways to keep it (default all)")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="threads (default: all cores)")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each, medians count (default 3)")
    parser.add_argument("--steps", type=int, default=5, help="timed training steps of a process (default 5)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.one is not None:
        print(json.dumps(measured(options.one, options.model, options.dtype, options.steps)))
        return 0
    print(f"{machine_facts()['cpu']}, {options.threads} threads, torch {torch.__version__}")
    print(f"{options.model} in {options.dtype}; LoRA on all linears, {ROWS} rows of {LENGTH} tokens a step\n")
    print("| base | weights, MB | process after loading, MB | trained tokens/s | generated tokens/s |")
    print("|---|---|---|---|---|")
    given = sys.argv[1:] if arguments is None else list(arguments)
    found: dict[str, list[Figures]] = {kept: [] for kept in options.kept}
    for _ in range(options.repeats):
        for kept, figures in found.items():
            command = [sys.executable, str(Path(__file__)), *given, "--one", kept]
            line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
            figures.append(json.loads(line))
    for kept, figures in found.items():
        shown = (f"{median(run[name] for run in figures):,.0f}" for name in figures[0])
        print(f"| {kept} | {' | '.join(shown)} |")
    return 0


def measured(kept: str, model: str, dtype: str, steps: int) -> Figures:
    """Return the megabytes and the tokens a second of one base in this process."""
    base = load_base(model, dtype=dtype, quantization=None if kept == PLAIN else cast(Quantization, kept))
    weights, held = sum(stored_bytes(parameter) for parameter in base.model.parameters()), _resident()
    adapter = create_adapter(base, "lora")
    adapter.set_trainable(True)
    adapted = AdaptedModel(base, [adapter])
    loss = LabelLoss(adapted.model, adapted.plugged_into)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(3, base.fingerprint.vocab_size, (ROWS, LENGTH), generator=generator).to(base.model.device)

    def step() -> None:
        loss({"input_ids": rows}, rows, adapted).sum().backward()

    def write() -> None:
        with torch.inference_mode():
            adapted.model.generate(
                rows, attention_mask=torch.ones_like(rows), max_new_tokens=WRITTEN, min_new_tokens=WRITTEN
            )

    return {
        "weights": weights / 1e6,
        "held": held / 1e6,
        "trained": ROWS * LENGTH / _seconds(step, steps),
        "generated": ROWS * WRITTEN / _seconds(write, 1),
    }


def _seconds(run: Callable[[], None], times: int) -> float:
    """Return the median seconds of ``run``, after one that does not count."""
    taken = []
    for _ in range(times + 1):
        began = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return median(taken[1:])


def _resident() -> int:
    """Return how many bytes of memory this process holds now, where Linux tells."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.is_file() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)


if __name__ == "__main__":
    sys.exit(main())
