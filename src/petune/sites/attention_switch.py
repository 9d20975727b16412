"""The switch that sends a model's attention through our function, and gives the model its own back."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from transformers import PreTrainedModel

from petune.backbone.loading import quiet
from petune.errors import BaseModelError
from petune.sites.stand_ins import STAND_INS

IMPLEMENTATION = "petune"
"""The name by which transformers finds our function."""


@dataclass(slots=True)
class _Hold:
    """How many switches of one model are on, and which attention returns when the last one is off."""

    former: str
    switches: int = 0


_HOLDS: WeakKeyDictionary[nn.Module, _Hold] = WeakKeyDictionary()


@final
class AttentionSwitch:
    """The attention of one model, which goes through our function as long as one switch of the model is on.

    Most models hand each attention to a function found by name; then the name is changed. A few compute it themselves:
    in those that have a row in ``STAND_INS``, a method of their attention modules is replaced meanwhile.

    Args:
        model: the base.
        attention: our function.
    """

    def __init__(self, model: PreTrainedModel, attention: Callable[..., tuple[Tensor, None]]) -> None:
        self._model = model
        self._attention = attention
        self._own = list(_computing_themselves(model))
        self.is_on = False
        """Whether this switch sends the model's attention through ours."""

    @property
    def replaces_methods(self) -> bool:
        """Whether the model computes its attention itself, and a stand-in does so meanwhile."""
        return bool(self._own)

    def on(self) -> None:
        """Send the attention through ours.

        Raises:
            BaseModelError: it cannot be reached.
        """
        if self._model not in _HOLDS:
            former = self._model.config._attn_implementation
            if not self._own:
                _take_over(self._model)
            for module in self._own:
                method, stand_in = STAND_INS[type(module)]
                setattr(module, method, stand_in(module, self._attention))
            _HOLDS[self._model] = _Hold(former)
        _HOLDS[self._model].switches += 1
        self.is_on = True

    def off(self) -> None:
        """Give the model its own attention back, unless another switch is on."""
        assert self.is_on
        self.is_on = False
        hold = _HOLDS[self._model]
        hold.switches -= 1
        if hold.switches:
            return
        for module in self._own:
            delattr(module, STAND_INS[type(module)][0])
        self._model.set_attn_implementation(hold.former)
        del _HOLDS[self._model]


def require_attention(model: PreTrainedModel) -> None:
    """Check that keys and values can be added to the attentions of ``model``; works on the meta device.

    Raises:
        BaseModelError: they cannot.
    """
    former = model.config._attn_implementation
    if former != IMPLEMENTATION and not any(True for _ in _computing_themselves(model)):
        _take_over(model)
        model.set_attn_implementation(former)


def _computing_themselves(model: nn.Module) -> Iterator[nn.Module]:
    return (module for module in model.modules() if type(module) in STAND_INS)


def _take_over(model: PreTrainedModel) -> None:
    with quiet():
        model.set_attn_implementation(IMPLEMENTATION)
    if model.config._attn_implementation != IMPLEMENTATION:
        raise BaseModelError(
            f"{type(model).__name__} does not use transformers' attention interface, so nothing can be added to its"
            " keys and values; methods that change outputs or weights work (petune methods lists the sites of each)"
        )
