"""Measuring a model: losses, choices between labels, generated text, and the metrics over them."""
