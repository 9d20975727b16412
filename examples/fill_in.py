"""Let an encoder fill answers in: P-tuning with virtual tokens around a gap, and label words that compete for it.

Usage: python examples/fill_in.py [MODEL] [DATA] [OUTPUT_DIR]
"""

import sys
from pathlib import Path

import petune

REVIEWS = Path(__file__).with_name("reviews.jsonl")


def main(
    model: str = "distilbert/distilroberta-base", data: str = str(REVIEWS), output_dir: str = "outputs/fill_in"
) -> None:
    """Train, measure, and answer rows without a label."""
    result = petune.train(
        {
            "model": model,
            "task": "masked_lm",
            "data": data,
            "validation_split": 12,
            "method": "p_tuning",
            "prompt_template": "{p*3} {text} {p*3} It was {mask}.",
            "verbalizer": {"positive": "great", "negative": "awful"},
            "metrics": ["accuracy"],
            "num_train_epochs": 3,
            "output_dir": output_dir,
        },
        overwrite=True,
    )
    print(result.train_report.render())
    print(f"{result.steps} steps, {result.eval_metrics}")

    answer = petune.predict(result.model, data)[0]
    print(f"{answer.fields['text']!r} is {answer.prediction}, {dict(answer.probabilities or {})}")


if __name__ == "__main__":
    main(*sys.argv[1:])
