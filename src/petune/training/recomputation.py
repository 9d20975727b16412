"""Gradient checkpointing: activations are computed again in the backward pass instead of being kept.

Chen, Xu, Zhang, Guestrin: "Training Deep Nets with Sublinear Memory Cost" (2016), https://arxiv.org/abs/1604.06174
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel

from petune.errors import ConfigError


@contextmanager
def gradient_checkpointing(model: PreTrainedModel) -> Iterator[None]:
    """Recompute the activations of each block of ``model`` inside the block; afterwards it is as it was.

    Raises:
        ConfigError: the architecture cannot do it.
    """
    if not model.supports_gradient_checkpointing:
        raise ConfigError(f"{type(model).__name__} cannot recompute activations; leave out --gradient-checkpointing")
    with warnings.catch_warnings():  # the name that all releases of transformers 5 know; the new one came late
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable({"use_reentrant": False})
    # Only reentrant checkpointing needs inputs that require gradients; the hook for them would outlive the run.
    model.disable_input_require_grads()
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            model.gradient_checkpointing_disable()
