"""A transformers model with adapters, as scripts and the Trainer call it: what is not told here is the model's own."""

import functools
import inspect
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, final

from torch import nn
from transformers import PreTrainedModel

from petune.adapted_model import AdaptedModel
from petune.backbone.base import Base
from petune.compat import virtual_tokens
from petune.compat.trainer import presented_class
from petune.errors import ConfigError

BASE_ROW = "__base__"
"""What stands for the bare base in ``adapter_names``."""


@functools.cache
def _signature(kind: type[nn.Module]) -> inspect.Signature:
    whole = inspect.signature(kind.forward)
    return whole.replace(parameters=list(whole.parameters.values())[1:])


@final
class _Forward:
    """``WrappedModel.run`` under the signature of the base's ``forward``, which the Trainer reads columns off."""

    def __get__(self, model: "WrappedModel | None", owner: "type[WrappedModel]") -> Any:
        if model is None:
            return owner.run
        forward = functools.partial(owner.run, model)
        forward.__signature__ = _signature(type(model.get_base_model()))  # type: ignore[attr-defined, arg-type]
        return forward


def _rows(adapter_names: Sequence[str] | None) -> list[str | None] | None:
    return None if adapter_names is None else [None if name == BASE_ROW else name for name in adapter_names]


class WrappedModel(nn.Module):
    """A model in memory that looks like itself, adapters included.

    Args:
        model: the model; it is frozen in place.
        revision: the commit it was loaded from.

    Raises:
        ConfigError: it is wrapped already, or no model of transformers.
        BaseModelError: petune cannot use it as a base.
    """

    base_model: AdaptedModel
    forward = _Forward()

    def __init__(self, model: PreTrainedModel, revision: str | None = None) -> None:
        super().__init__()
        if isinstance(model, WrappedModel):
            raise ConfigError("the model has adapters already; use its add_adapter or load_adapter to give it another")
        if not isinstance(model, PreTrainedModel):
            raise ConfigError(f"the model is a {type(model).__name__}; petune adapts models of transformers")
        training = model.training
        self.base_model = AdaptedModel(Base.from_model(model, revision=revision))
        # As new modules are, ours is in training mode, and adapters with it; the model keeps the mode it had.
        self.base_model.training = True
        model.train(training)

    @property  # type: ignore[misc]
    def __class__(self) -> type[Any]:
        return presented_class(self.get_base_model())

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_model":  # not there yet
                raise
            return getattr(self.get_base_model(), name)

    @property
    def _keys_to_ignore_on_save(self) -> list[str]:
        # What a Trainer without PEFT leaves out of its checkpoints, so that it misses nothing when it resumes.
        learned = {name for name, p in self.named_parameters() if p.requires_grad}
        return [name for name in self.state_dict() if name not in learned]

    def run(self, *args: Any, adapter_names: Sequence[str] | None = None, **inputs: Any) -> Any:
        """Run the base, adapters included.

        Args:
            args: what the base takes.
            adapter_names: for each row the adapter it goes through, ``__base__`` for none; by default the active ones.
            inputs: what the base takes.

        Raises:
            ConfigError: a name that is not attached, or inputs that virtual tokens cannot be written into.
        """
        if args:
            signature = _signature(type(self.get_base_model()))  # type: ignore[arg-type]
            signature.bind_partial(*args, **inputs)  # too many, or one given twice, is the caller's mistake
            inputs = {**signature.bind_partial(*args).arguments, **inputs}
        rows = _rows(adapter_names)
        per_token = self.base_model.base.task not in ("sequence_classification", "seq2seq_lm")
        written = virtual_tokens.write(self.base_model, inputs, rows, answers_tokens=per_token)
        with nullcontext() if rows is None else self.base_model.route(rows):
            output = self.base_model.model(**(inputs if written is None else written.inputs))
        return output if written is None else written.leave_out(output)

    def generate(self, *args: Any, adapter_names: Sequence[str] | None = None, **options: Any) -> Any:
        """Let the base generate, adapters included; ``adapter_names`` as for :meth:`run`.

        What a decoder returns begins with the rows as they were given, without virtual tokens.
        """
        rows = _rows(adapter_names)
        if args:  # generate's own first argument
            options, args = {**options, "input_ids": args[0]}, args[1:]
        written = virtual_tokens.write(self.base_model, options, rows, answers_tokens=False)
        goes_on = written is not None and self.base_model.base.structure.is_decoder_lm
        if written is not None:
            options = written.lengthened() if goes_on else written.inputs
        with nullcontext() if rows is None else self.base_model.route(rows):
            output = self.base_model.model.generate(*args, **options)
        return written.behind_given(output) if written is not None and goes_on else output

    def get_base_model(self) -> PreTrainedModel:
        """Return the transformers model."""
        return self.base_model.base.model

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """Return how many parameters are trained, and how many there are, the adapters' included."""
        counts = [(p.numel(), p.requires_grad) for p in self.parameters()]
        return sum(count for count, trained in counts if trained), sum(count for count, _ in counts)

    def print_trainable_parameters(self) -> None:
        """Print both numbers and the share in percent."""
        trained, total = self.get_nb_trainable_parameters()
        print(  # noqa: T201 - it is what the method is for
            f"trainable params: {trained:,d} || all params: {total:,d} || trainable%: {100 * trained / total:.4f}"
        )
