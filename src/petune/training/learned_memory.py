"""Memory that learning takes beside a base: values, gradients and moments, and what a batch holds meanwhile."""

VALUE = 4
"""Bytes of a learned number: what is learned is kept in fp32."""
MOMENTS = 2
"""Tensors that AdamW keeps of the size of each that is learned."""


def learned_bytes(count: int) -> int:
    """Return the bytes of ``count`` learned numbers with their gradients and moments."""
    return count * VALUE * (2 + MOMENTS)


def most_above(gradients: int, batch: int, *, accumulates: bool) -> int:
    """Return the most bytes beyond what is held before the first step.

    Args:
        gradients: bytes of the gradients, all of them there.
        batch: most bytes that a batch holds.
        accumulates: whether gradients of one batch wait for those of another.
    """
    waiting = gradients if accumulates else 0
    # What is learned has its gradients when the backward pass ends, and little is kept any more.
    return MOMENTS * gradients + max(batch + waiting, gradients)
