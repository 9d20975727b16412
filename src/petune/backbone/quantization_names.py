"""The names of the ways in which a base's weights may be kept as blocks; free of torch, as recipes are."""

from typing import Literal, get_args

Quantization = Literal["gguf", "8bit", "4bit"]
"""gguf: the blocks of the base's GGUF file, which mean the same numbers; 8bit, 4bit: rounded to Q8_0 or NF4."""

QUANTIZATIONS: tuple[str, ...] = get_args(Quantization)
