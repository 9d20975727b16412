"""The output head, run at label positions only; the last block is told that nothing else is read.

Shapes: B rows, T positions, N label positions, d hidden width, V vocabulary. In a causal model position t predicts
token t + 1.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from petune.backbone.arguments import without_cache
from petune.kernels.loss_head import label_cross_entropy
from petune.kernels.upload import uploaded
from petune.kernels.wide_products import is_plain_linear
from petune.sites.routing import Reading, Route, Routing

IGNORED = -100
Forward = Callable[..., Any]

_MOST_READ = 3 / 4
"""The share of a batch's tokens up to which it is worth the while to leave the others out."""


@final
class LabelLoss:
    """The language-modelling loss of each row of ``model``, summed over its label positions.

    A hook hands the head only the hidden states at label positions. Where the head is a plain linear whose result is
    the model's logits, the loss and its gradient come from the chunked kernel; where the model reworks the logits (a
    soft cap, a scale) or an adapter sits on the head, the model's own logits at those positions are used. Which of the
    two holds is measured on the first batch, not looked up. To adapters on the head each position is a row.

    Args:
        model: a language model.
        head_is_changed: says whether an adapter is plugged into a module.
        next_token: position t predicts label t + 1, as in a causal model; false where it predicts label t, as in a
            decoder whose inputs are shifted already.
    """

    def __init__(
        self, model: PreTrainedModel, head_is_changed: Callable[[nn.Module], bool], *, next_token: bool = True
    ) -> None:
        head = model.get_output_embeddings()
        assert head is not None, "a language model has an output head"
        self._model = model
        self._head: nn.Module = head
        self._head_is_changed = head_is_changed
        self._logits_are_head_output: bool | None = None
        self._shift = int(next_token)

    def __call__(self, inputs: Mapping[str, Any], labels: Tensor, forward: Forward | None = None) -> Tensor:
        """Return the negative log-likelihood [B] of each row of ``labels`` [B, T], in fp32; -100 is not counted.

        Args:
            inputs: what the model takes: ``input_ids`` and ``attention_mask`` [B, T], perhaps more.
            labels: the tokens to predict, aligned with the tokens that the head's model reads. Where they lie on the
                host, label positions are found there, and nobody waits for the device.
            forward: what to call in the model's place (a wrapper around it).
        """
        num_rows, num_tokens = labels.shape
        labels = labels[:, self._shift :]
        places = (labels != IGNORED).nonzero(as_tuple=True)
        at_places = Routing.of(self._model).route.of_entries(places[0])
        rows, columns, targets = (uploaded(found, self._model.device) for found in (*places, labels[places]))
        reading = Reading(rows * num_tokens + columns, (num_rows, num_tokens), at_places)
        run = forward or self._model
        if self._fused():
            hidden, logits, raw = self._run(run, inputs, (rows, columns), reading, only_first=True)
            if self._logits_are_head_output is None and len(targets):
                self._logits_are_head_output = torch.equal(logits, raw.to(logits.dtype))
            if self._logits_are_head_output is not False:
                weight, bias = self._head.weight, getattr(self._head, "bias", None)
                assert isinstance(weight, Tensor)
                return _of_rows(label_cross_entropy(hidden, weight, targets, bias), rows, len(labels))
        _, logits, _ = self._run(run, inputs, (rows, columns), reading, only_first=False)
        wide = torch.promote_types(logits.dtype, torch.float32)
        return _of_rows(nn.functional.cross_entropy(logits.to(wide), targets, reduction="none"), rows, len(labels))

    def _fused(self) -> bool:
        plain = is_plain_linear(self._head) and not self._head_is_changed(self._head)
        return plain and self._logits_are_head_output is not False

    def _route_telling(self, reading: Reading) -> Route:
        """Return the route in force; it tells what is read where that is little and gradients are wanted."""
        route, read, tokens = Routing.of(self._model).route, len(reading.places), reading.size[0] * reading.size[1]
        return replace(route, reads=reading) if torch.is_grad_enabled() and 0 < read <= _MOST_READ * tokens else route

    def _run(
        self,
        run: Forward,
        inputs: Mapping[str, Any],
        places: tuple[Tensor, Tensor],
        reading: Reading,
        *,
        only_first: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the hidden states [N, d] at ``places``; the model's logits and the head's own output for them.

        With ``only_first``, logits and output are those of the first place alone.
        """
        routing, head_is_changed = Routing.of(self._model), self._head_is_changed(self._head)
        seen: list[Tensor] = []
        in_head = ExitStack()

        def select(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            if head_is_changed:
                in_head.enter_context(routing.use(reading.route))
            hidden = arguments[0][places]
            seen.append(hidden)
            return (hidden[:1] if only_first else hidden, *arguments[1:])

        def record(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
            in_head.close()
            seen.append(output.detach())

        # What adapters hook to the head comes between the two.
        hooks = (self._head.register_forward_pre_hook(select, prepend=True), self._head.register_forward_hook(record))
        with routing.use(self._route_telling(reading)), in_head:
            try:
                logits: Tensor = run(**inputs, **without_cache(self._model)).logits
            finally:
                for hook in hooks:
                    hook.remove()
        hidden, raw = seen
        return hidden, logits, raw


def _of_rows(losses: Tensor, rows: Tensor, count: int) -> Tensor:
    """Return the sums [B] of the losses [N] of positions that stand in these ``rows`` [N] of B = ``count``."""
    return losses.new_zeros(count).index_add(0, rows, losses)
