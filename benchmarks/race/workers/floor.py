"""How fast this machine computes the matrix products alone that a step of a contest cannot do without.

Forward, every linear multiplies the tokens. Backward, the linears of the lowest block with something to learn, and of
all above it, multiply the gradients; where the base itself is learned, each weight's own gradient is a third product.
The head sees label tokens only. Products are run one after the other, each with the model's own weight: in the base's
precision, and on a CPU in float32 too, since some are faster at that. The faster way counts.
"""

import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from petune.adapter import create_adapter
from petune.backbone.base import Base, load_base
from petune.backbone.structure import Linear
from petune.sites.trunk import lowest_block
from race.contests import CONTESTS, Contest
from race.settings import Settings
from race.task import Task
from race.work import IGNORED, Work

PASSES = 5
Product = Callable[[], Tensor]


def main() -> None:
    """Answer with the seconds of the products of one step of ``contest``, and the tokens/s they allow."""
    task = Task.from_command_line()
    work, contest = task.work, CONTESTS[task.arguments["contest"]]
    torch.set_num_threads(work.settings.threads)
    base = load_base(work.model, dtype="bfloat16", device=work.settings.device)
    tokens, labels = sizes_of_a_step(work)
    lowest = lowest_learned(base, contest, work)
    rows = tokens + contest.read_tokens
    parts: dict[torch.dtype, dict[str, float]] = {}
    for precision in precisions(work.settings):
        base.model.to(precision)
        products = products_of_a_step(base, contest, lowest, rows, labels)
        parts[precision] = {name: seconds_of(list(own)) for name, own in products.items()}
    fastest = min(parts, key=lambda precision: sum(parts[precision].values()))
    products = products_of_a_step(base, contest, lowest, rows, labels)
    operations = sum(operations_of(product) for own in products.values() for product in own)
    task.answer(
        {
            "tokens": tokens,
            "label_tokens": labels,
            "lowest_block": lowest,
            "seconds": parts[fastest],
            "precision": str(fastest).removeprefix("torch."),
            "operations_per_token": operations / tokens,
            "card": torch.cuda.get_device_name() if work.settings.device == "cuda" else None,
            "tokens_per_second": tokens / sum(parts[fastest].values()),
        }
    )


def precisions(settings: Settings) -> list[torch.dtype]:
    """Return those in which products of a base in the race's precision may be computed."""
    own: torch.dtype = getattr(torch, settings.dtype)
    return [own, torch.float32] if settings.device == "cpu" and own != torch.float32 else [own]


def sizes_of_a_step(work: Work) -> tuple[int, int]:
    """Return the mean number of tokens, and of label tokens, of the planned steps."""
    rows = work.read_rows()
    steps = [[rows[index] for index in step] for step in work.read_plan()]
    tokens = statistics.mean(sum(len(row.input_ids) for row in step) for step in steps)
    labels = statistics.mean(sum(label != IGNORED for row in step for label in row.labels[1:]) for step in steps)
    return round(tokens), max(1, round(labels))


def lowest_learned(base: Base, contest: Contest, work: Work) -> int:
    """Return the index of the lowest block that has something to learn in it or below it."""
    if contest.trains_base:
        return 0
    adapter = create_adapter(base, contest.method, seed=work.settings.seed, **contest.options)
    return lowest_block(base.model, base.structure, adapter.slots.items())


def products_of_a_step(
    base: Base, contest: Contest, lowest: int, tokens: int, labels: int
) -> dict[str, Iterator[Product]]:
    """Return the products of the blocks, forward and backward, and of the head."""
    inside = [linear for linear in base.structure.linears if linear.block is not None]
    first = lowest if contest.cached_from_epoch_two else 0
    weights = {start: [_weight(base, x) for x in inside if x.block >= start] for start in (first, lowest)}
    head = base.model.get_output_embeddings().weight
    parts = {
        "forward": forward(weights[first], tokens),
        "backward": backward(weights[lowest], tokens),
        "head": (p for part in (forward([head], labels), backward([head], labels)) for p in part),
    }
    if contest.trains_base:
        parts["gradients of the weights"] = (
            p for part in (gradients(weights[first], tokens), gradients([head], labels)) for p in part
        )
    return parts


def forward(weights: list[Tensor], rows: int) -> Iterator[Product]:
    """Yield x W^T for each weight [d_out, d_in]."""
    inputs = {width: _random(rows, width, weights[0]) for width in {w.shape[1] for w in weights}}
    return ((lambda w=w: inputs[w.shape[1]] @ w.t()) for w in weights)


def backward(weights: list[Tensor], rows: int) -> Iterator[Product]:
    """Yield dy W for each weight [d_out, d_in]."""
    gradients = {width: _random(rows, width, weights[0]) for width in {w.shape[0] for w in weights}}
    return ((lambda w=w: gradients[w.shape[0]] @ w) for w in weights)


def gradients(weights: list[Tensor], rows: int) -> Iterator[Product]:
    """Yield dy^T x for each weight [d_out, d_in]."""
    some = {width: _random(rows, width, weights[0]) for width in {width for w in weights for width in w.shape}}
    return ((lambda w=w: some[w.shape[0]].t() @ some[w.shape[1]]) for w in weights)


@torch.no_grad()
def seconds_of(products: list[Product]) -> float:
    """Return the median seconds of all products in turn, after a pass that does not count."""
    seconds = []
    for _ in range(PASSES + 1):
        _wait()
        began = time.perf_counter()
        for product in products:
            product()
        _wait()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


@torch.no_grad()
def operations_of(product: Product) -> float:
    """Return the multiplications and additions of a product, as PyTorch counts them."""
    with FlopCounterMode(display=False) as counter:
        product()
    return float(counter.get_total_flops())


def _wait() -> None:
    """Wait until a card has done what it was given."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _weight(base: Base, linear: Linear) -> Tensor:
    """Return the weight [d_out, d_in] of a linear."""
    weight: Tensor = base.model.get_submodule(linear.path).weight
    return weight.t() if linear.transposed else weight


def _random(rows: int, width: int, like: Tensor) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(width)).to(like)


if __name__ == "__main__":
    main()
