"""Full fine-tuning: the baseline that every parameter-efficient method is held against.

Every chosen parameter of the base is learned, from its pretrained value. There is no paper to follow; masters are fp32
and the forward pass runs in the base's precision, as in mixed-precision training (Micikevicius et al. 2017,
https://arxiv.org/abs/1710.03740).
"""

from fnmatch import fnmatchcase
from typing import final

from petune.errors import TargetError, nearest
from petune.methods.config import MethodConfig
from petune.methods.method import Method, Target
from petune.sites.sites import Slot
from petune.sites.weights import WeightSlot


@final
class FullConfig(MethodConfig):
    """Settings of full fine-tuning."""

    trainable_parameters: tuple[str, ...] = ("*",)
    """Shell patterns over parameter paths to learn; "*" learns all of them ("*.layers.29.*" one block of a Llama)."""


@final
class FullFineTuning(Method[FullConfig]):
    """Learning the base's own parameters."""

    name = "full"
    title = "full fine-tuning"
    paper = None
    sites = ("weights",)
    learning_rate = 2e-5
    shares_batch = False
    baseline = True
    start = "exact"
    config_class = FullConfig

    def build(self, config: FullConfig, target: Target) -> dict[str, Slot]:
        """Return one slot for each chosen parameter, starting at its value in the base."""
        parameters = dict(target.model.named_parameters())
        for pattern in config.trainable_parameters:
            if not any(fnmatchcase(path, pattern) for path in parameters):
                raise TargetError(
                    f"trainable_parameters: '{pattern}' matches no parameter of this base;"
                    f" paths look like '{next(iter(parameters))}'.{nearest(pattern, parameters)}"
                )
        return {
            path: WeightSlot(parameter)
            for path, parameter in parameters.items()
            if any(fnmatchcase(path, pattern) for pattern in config.trainable_parameters)
        }
