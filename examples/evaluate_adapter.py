"""Measure an adapter, and its base without it, on labelled reviews.

Usage: python examples/evaluate_adapter.py [ADAPTER] [DATA]
"""

import sys
from pathlib import Path

import petune

REVIEWS = Path(__file__).with_name("reviews.jsonl")


def main(adapter: str = "outputs/train_lora", data: str = str(REVIEWS)) -> None:
    """Print accuracy and F1 with and without the adapter."""
    model = petune.load(adapter)
    tuned = petune.evaluate(model, data, metrics=["accuracy", "f1"])

    model.activate()  # without names: every row goes through the bare base
    base = petune.evaluate(model, data, metrics=["accuracy", "f1"])

    for metric, value in tuned.metrics.items():
        print(f"{metric}: {base.metrics[metric]:.3f} before, {value:.3f} after")


if __name__ == "__main__":
    main(*sys.argv[1:])
