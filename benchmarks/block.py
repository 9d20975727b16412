"""Times what petune computes in its own way in a block while training on CPU, part by part, against plain PyTorch.

Both sides are run in turn in one process and judged by the processor time they take, which other programs disturb less
than they do the clock; the best of the repeats counts. The model has SmolLM2-135M's shapes and random weights.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext

import torch
from race.machine import machine_facts
from torch import Tensor
from torch.nn import functional as F
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from petune.kernels.dropout import dropout
from petune.kernels.gated_product import ACTIVATIONS, gated_product
from petune.kernels.rms_norm import rms_norm
from petune.kernels.rotary import rotate
from petune.sites.attention import AttentionSites
from petune.sites.own_maths import own_maths
from petune.sites.routing import Routing

WIDTH, INNER, HEADS, GROUPS, HEAD, LAYERS = 576, 1536, 9, 3, 64, 30
DROPPED = 0.1
LENGTH = 32
Run = Callable[[], float]
"""Runs one side; returns its processor seconds."""
Part = Callable[[torch.dtype, int], tuple[Run, Run]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print milliseconds of forward and backward of each part and of the whole model, and what is kept in between."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1, help="threads (default 1: time of several cannot be told)")
    parser.add_argument("--tokens", type=int, default=512, help=f"tokens of a batch, in rows of {LENGTH} (default 512)")
    parser.add_argument("--layers", type=int, default=LAYERS, help=f"blocks of the whole model (default {LAYERS})")
    parser.add_argument("--repeats", type=int, default=10, help="timings of each, the best one counts (default 10)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    print(f"{machine_facts()['cpu']}, {options.threads} threads, torch {torch.__version__}")
    print(f"{options.tokens:,} tokens; forward and backward, ms of processor time; MiB kept for the backward pass\n")
    print("| precision | part | plain | own | ratio | plain MiB | own MiB |\n|---|---|---|---|---|---|---|")
    parts: dict[str, Part] = {
        "norm": norm,
        "gated product": gated,
        "rotary embedding": rotary,
        "dropout": dropping,
        "the model": lambda dtype, tokens: whole(dtype, tokens, options.layers),
        "an encoder with dropout": lambda dtype, tokens: encoder(dtype, tokens, options.layers // 5),
    }
    for dtype in (torch.bfloat16, torch.float32):
        for name, part in parts.items():
            sides = part(dtype, options.tokens // LENGTH)
            plain, own = race(sides, options.repeats)
            kept = [kept_by(side) / 2**20 for side in sides]
            told = f"{1e3 * plain:.2f} | {1e3 * own:.2f} | {plain / own:.2f} | {kept[0]:.1f} | {kept[1]:.1f}"
            print(f"| {str(dtype).removeprefix('torch.')} | {name} | {told} |", flush=True)
    return 0


def race(sides: tuple[Run, Run], repeats: int) -> tuple[float, float]:
    """Return the least processor seconds of both sides, run in turn."""
    best = [float("inf"), float("inf")]
    for repeat in range(repeats + 1):
        for side, run in enumerate(sides):
            seconds = run()
            if repeat:
                best[side] = min(best[side], seconds)
    return best[0], best[1]


def kept_by(run: Run) -> int:
    """Return the bytes that a forward pass keeps for its backward pass; parameters do not count."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if not (tensor.is_leaf and isinstance(tensor, torch.nn.Parameter)):
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run()
    return sum(kept.values())


def norm(dtype: torch.dtype, rows: int) -> tuple[Run, Run]:
    """Return a model's norm and ours."""
    x = torch.randn(rows, LENGTH, WIDTH).to(dtype).requires_grad_()
    module = LlamaRMSNorm(WIDTH).requires_grad_(False).to(dtype)
    pull = torch.randn_like(x)
    return (
        lambda: timed(lambda: module(x).backward(pull)),
        lambda: timed(lambda: rms_norm(x, module.weight, 1e-6).backward(pull)),
    )


def gated(dtype: torch.dtype, rows: int) -> tuple[Run, Run]:
    """Return silu(gate) * up and ours."""
    gate, up = (torch.randn(rows, LENGTH, INNER).to(dtype).requires_grad_() for _ in range(2))
    pull = torch.randn_like(gate)
    return (
        lambda: timed(lambda: (F.silu(gate) * up).backward(pull)),
        lambda: timed(lambda: gated_product(gate, up, ACTIVATIONS[0]).backward(pull)),
    )


def rotary(dtype: torch.dtype, rows: int) -> tuple[Run, Run]:
    """Return transformers' rotary embedding and ours."""
    query, key = (
        torch.randn(rows, LENGTH, heads, HEAD).to(dtype).transpose(1, 2).requires_grad_() for heads in (HEADS, GROUPS)
    )
    angles = torch.randn(1, LENGTH, HEAD)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    pulls = [torch.randn_like(t) for t in (query, key)]

    def plain() -> None:
        torch.autograd.backward(apply_rotary_pos_emb(query, key, cos, sin), pulls)

    def own() -> None:
        torch.autograd.backward(rotate(query, key, cos[:, None], sin[:, None]), pulls)

    return lambda: timed(plain), lambda: timed(own)


def dropping(dtype: torch.dtype, rows: int) -> tuple[Run, Run]:
    """Return PyTorch's dropout and ours."""
    x = torch.randn(rows, LENGTH, INNER).to(dtype).requires_grad_()
    pull = torch.randn_like(x)
    return (
        lambda: timed(lambda: F.dropout(x, DROPPED).backward(pull)),
        lambda: timed(lambda: dropout(x, DROPPED).backward(pull)),
    )


def encoder(dtype: torch.dtype, rows: int, layers: int) -> tuple[Run, Run]:
    """Return a pass through a small encoder with dropout, the base frozen: as it comes, and with petune."""
    config = BertConfig(
        hidden_size=HEADS * 32,
        intermediate_size=INNER,
        num_attention_heads=HEADS,
        num_hidden_layers=max(1, layers),
        vocab_size=64,
        hidden_dropout_prob=DROPPED,
        attention_probs_dropout_prob=DROPPED,
    )
    model = BertModel(config, add_pooling_layer=False).requires_grad_(False).to(dtype).train()
    rows = max(1, rows // 4)
    inputs = torch.randn(rows, 4 * LENGTH, config.hidden_size).to(dtype).requires_grad_()
    mask = torch.ones(rows, 4 * LENGTH, dtype=torch.int64)
    mask[0, -LENGTH:] = 0
    sites = AttentionSites(model, Routing.of(model))

    def run(*, own: bool) -> float:
        with ExitStack() as ours:
            if own:
                ours.enter_context(sites.held())
                ours.enter_context(own_maths(model))
            return timed(lambda: model(inputs_embeds=inputs, attention_mask=mask).last_hidden_state.sum().backward())

    return lambda: run(own=False), lambda: run(own=True)


def whole(dtype: torch.dtype, rows: int, layers: int) -> tuple[Run, Run]:
    """Return a pass through all blocks, the base frozen: with petune's attention alone, and with its own maths too."""
    config = LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_attention_heads=HEADS,
        num_key_value_heads=GROUPS,
        num_hidden_layers=layers,
        vocab_size=64,
    )
    model = LlamaForCausalLM(config).requires_grad_(False).to(dtype).train()
    inputs = torch.randn(rows, LENGTH, WIDTH).to(dtype).requires_grad_()
    sites = AttentionSites(model, Routing.of(model))

    def run(*, own: bool) -> float:
        with sites.held(), own_maths(model) if own else nullcontext():
            return timed(lambda: model.model(inputs_embeds=inputs, use_cache=False).last_hidden_state.sum().backward())

    return lambda: run(own=False), lambda: run(own=True)


def timed(action: Callable[[], object]) -> float:
    """Return the processor seconds of ``action``."""
    began = time.process_time()
    action()
    return time.process_time() - began


if __name__ == "__main__":
    sys.exit(main())
