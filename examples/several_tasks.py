"""Train one prefix for two tasks, reviews and entities, and use it for each.

Usage: python examples/several_tasks.py [MODEL] [OUTPUT_DIR]
"""

import sys
from pathlib import Path

import petune

HERE = Path(__file__).parent


def main(model: str = "demo", output_dir: str = "outputs/several_tasks") -> None:
    """Train, then load the adapter for one task after the other."""
    result = petune.train(
        {
            "model": model,
            "method": "p_tuning_v2",
            "tasks": [
                {
                    "name": "sentiment",
                    "task": "sequence_classification",
                    "data": str(HERE / "reviews.jsonl"),
                    "validation_split": 12,
                    "metrics": ["accuracy"],
                },
                {
                    "name": "entities",
                    "task": "token_classification",
                    "data": str(HERE / "entities.jsonl"),
                    "validation_split": 10,
                    "metrics": ["entity_f1"],
                },
            ],
            "num_train_epochs": 3,
            "per_device_train_batch_size": 4,
            "output_dir": output_dir,
        },
        overwrite=True,
    )
    for name, value in result.eval_metrics.items():
        print(f"{name}: {value:.3f}")

    reviews = petune.load(output_dir, task_name="sentiment")
    measured = petune.evaluate(reviews, HERE / "reviews_test.jsonl", metrics=["accuracy"])
    print(f"held-out reviews: {measured.metrics['accuracy']:.3f}")

    entities = petune.load(output_dir, task_name="entities")
    answer = petune.predict(entities, HERE / "entities.jsonl")[0]
    print(" ".join(f"{word}/{tag}" for word, tag in zip(answer.fields["tokens"], answer.prediction, strict=True)))


if __name__ == "__main__":
    main(*sys.argv[1:])
