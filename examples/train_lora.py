"""Train a LoRA adapter on the example reviews and use it.

Usage: python examples/train_lora.py [MODEL] [DATA] [OUTPUT_DIR]
"""

import sys
from pathlib import Path

import petune

REVIEWS = Path(__file__).with_name("reviews.jsonl")


def main(model: str = "demo", data: str = str(REVIEWS), output_dir: str = "outputs/train_lora") -> None:
    """Train, then compare the base with the adapter on one review."""
    result = petune.train(
        {
            "model": model,
            "data": data,
            "validation_split": 12,
            "method": "lora",
            "r": 8,
            "learning_rate": 4e-4,
            "num_train_epochs": 2,
            "output_dir": output_dir,
        },
        overwrite=True,
    )
    print(result.train_report.render())
    print(f"{result.steps} steps, training loss {result.train_loss:.3f}, validation {result.eval_metrics}")

    prompt = "A slow start, but what a finish.\nLabel:"
    answer = petune.generate(result.model, [prompt], max_new_tokens=4)[0].text
    print(f"{prompt}{answer}")
    print(f"the adapter lies in {result.output_dir}")


if __name__ == "__main__":
    main(*sys.argv[1:])
