"""Merge an adapter into its base, and run the result with transformers alone.

Usage: python examples/merge_adapter.py [ADAPTER] [OUTPUT_DIR]
"""

import sys

from transformers import AutoModelForCausalLM, AutoTokenizer

import petune


def main(adapter: str = "outputs/train_lora", output_dir: str = "outputs/merged") -> None:
    """Write the merged model and let it finish a line."""
    folder = petune.merge(adapter, output_dir, overwrite=True)

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    inputs = tokenizer("A slow start, but what a finish.\nLabel:", return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    print(tokenizer.decode(tokens[0], skip_special_tokens=True))
    print(f"the merged model lies in {folder}")


if __name__ == "__main__":
    main(*sys.argv[1:])
