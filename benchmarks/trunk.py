"""What the trunk cache saves: steps of adapters in the top layers, the layers below run anew or kept on disk."""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence

import torch

import petune
from petune.data.reviews import movie_reviews, prompt_format
from petune.training.events import Silent, Step

EPOCHS = 3


class Rates(Silent):
    """Keeps the tokens/s of each step."""

    def __init__(self) -> None:
        self.steps: list[float] = []

    def stepped(self, step: Step) -> None:
        """Note a step."""
        self.steps.append(step.tokens_per_second)


def rate_after_the_first_epoch(base: petune.Base, data: str, layers: int, trunk_cache: str) -> float:
    """Return the median tokens/s of the second epoch and the later ones."""
    rates = Rates()
    with tempfile.TemporaryDirectory() as folder:
        result = petune.train(
            {
                **prompt_format(),
                "data": data,
                "method": "llama_adapter",
                "adapter_layers": layers,
                "num_train_epochs": EPOCHS,
                "trunk_cache": trunk_cache,
                "output_dir": f"{folder}/run",
            },
            base=base,
            listeners=[rates],
        )
        result.model.detach("default")
    return statistics.median(rates.steps[len(rates.steps) // EPOCHS :])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each number of layers: both ways in turn, repeated, and what the products alone would give."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, nargs="+", default=[20, 10, 5], help="adapted layers, from the top")
    parser.add_argument("--rows", type=int, default=96, help="movie reviews")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each way, in turn; medians are told")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    base = petune.load_base("demo", dtype="bfloat16", device="cpu")
    data = str(movie_reviews(options.rows, 16).train)
    blocks = base.structure.num_blocks
    print("| top layers | tokens/s without | with | ratio | by products alone |\n|---|---|---|---|---|")
    for layers in options.layers:
        found: dict[str, list[float]] = {"off": [], "1GiB": []}
        for _ in range(options.repeats):
            for trunk_cache, rates in found.items():
                rates.append(rate_after_the_first_epoch(base, data, layers, trunk_cache))
        without, kept = (statistics.median(rates) for rates in found.values())
        share = layers / blocks
        predicted = (1 + share) / (2 * share)  # forward of all and backward of some, to both of some
        print(
            f"| {layers} of {blocks} | {without:.0f} | {kept:.0f} | {kept / without:.2f} | {predicted:.2f} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
