"""What makers say of their cards: bfloat16 products with fp32 sums, without sparsity, in operations a second."""

_DENSE_BFLOAT16 = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
}
"""By what a card's name holds, the longer names first."""


def most_operations(card: str | None) -> float | None:
    """Return the operations a second of the card of this name; None where it is not known, or there is none."""
    return next((most for name, most in _DENSE_BFLOAT16.items() if card is not None and name in card), None)
