"""The bases that can be raced on: one with weights, and shapes whose weights are random; speed needs no others."""

from collections.abc import Mapping
from typing import Any

DEMO = "smollm2"

SHAPES: Mapping[str, Mapping[str, Any]] = {
    # Touvron et al.: "LLaMA: Open and Efficient Foundation Language Models" (2023), the 7B model; the vocabulary is
    # that of the tokenizer which the rows are written with.
    "llama-7b-shape": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    },
}
"""Settings of a Llama, by name."""
