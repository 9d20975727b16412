"""What evaluation needs of a model, and the state it runs in."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, final
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from petune.backbone.positions import position_limit
from petune.errors import ConfigError
from petune.sites.placement import Combine, Insertion
from petune.sites.routing import Routing


class Runner(Protocol):
    """A model with its tokenizer: a base with or without adapters attached."""

    @property
    def model(self) -> PreTrainedModel:
        """The model, on :attr:`device`."""
        ...

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer, with a pad token."""
        ...

    @property
    def device(self) -> torch.device:
        """Where inputs must lie."""
        ...

    @property
    def insertions(self) -> Sequence[Insertion]:
        """The virtual tokens that its adapters have written into rows."""
        ...

    @property
    def virtual_tokens(self) -> int:
        """How many of the model's positions adapters take in front of the input."""
        ...

    def modules(self) -> Iterator[nn.Module]:
        """Every module that takes part in a forward pass, those of adapters included."""
        ...

    def fast_inference(self) -> AbstractContextManager[None]:
        """Compute attention in the way that is fastest without gradients inside the block; results are the same."""
        ...


@final
class WithHead:
    """A runner that answers with another head on the same body.

    Args:
        runner: what everything else is taken from.
        model: the body with that head.
    """

    def __init__(self, runner: Runner, model: PreTrainedModel) -> None:
        self._runner = runner
        self._model = model

    @property
    def model(self) -> PreTrainedModel:
        """The body with the head."""
        _ = self._runner.model  # which says whether it may be called
        return self._model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer."""
        return self._runner.tokenizer

    @property
    def device(self) -> torch.device:
        """Where inputs must lie."""
        return self._runner.device

    @property
    def insertions(self) -> Sequence[Insertion]:
        """The virtual tokens that adapters have written into rows."""
        return self._runner.insertions

    @property
    def virtual_tokens(self) -> int:
        """How many of the model's positions adapters take in front of the input."""
        return self._runner.virtual_tokens

    def modules(self) -> Iterator[nn.Module]:
        """Every module that takes part in a forward pass."""
        return self._runner.modules()

    def fast_inference(self) -> AbstractContextManager[None]:
        """Compute attention in the way that is fastest without gradients inside the block."""
        return self._runner.fast_inference()


@contextmanager
def evaluating(runner: Runner) -> Iterator[None]:
    """Run the block in evaluation mode and without autograd, then give each module its own mode back.

    What changes for the block would not be given back rightly if two overlapped, so threads that use one model take
    turns: a second one waits here until the first is done.

    Raises:
        ConfigError: rows are routed one by one, and which they are is not known where they are sorted by length.
    """
    with _TURNS.setdefault(runner.model, threading.RLock()), _evaluating(runner):
        yield


@contextmanager
def _evaluating(runner: Runner) -> Iterator[None]:
    if Routing.of(runner.model).route.num_rows:
        raise ConfigError(
            "rows are routed one by one here, and this sorts them into batches of its own: choose the adapter of all"
            " rows with activate(...), or call the model itself inside route(...)"
        )
    training = [module for module in runner.modules() if module.training]
    try:
        for module in training:
            module.training = False
        with torch.inference_mode(), runner.fast_inference():
            yield
    finally:
        for module in training:
            module.training = True


def context_length(model: PreTrainedModel) -> int | None:
    """Return the longest sequence the model was made for, in tokens; None where it has no limit."""
    return position_limit(model)


def longest_input(runner: Runner) -> int | None:
    """Return how many tokens, prompt and answer together, have a place behind virtual ones; None without a limit."""
    limit = context_length(runner.model)
    return None if limit is None else limit - runner.virtual_tokens


def end_token_ids(runner: Runner) -> list[int]:
    """Return the ids that end an answer: the tokenizer's EOS, and those of the model (end of a chat turn)."""
    config = runner.model.generation_config
    declared = config.eos_token_id if config is not None else None
    ids = declared if isinstance(declared, list) else [declared]
    return sorted({token for token in (*ids, runner.tokenizer.eos_token_id) if token is not None})


def versions(runner: Runner) -> tuple[int, Combine]:
    """Return in how many versions rows are run, and how the answers to them become one."""
    placements = [i.placement for i in runner.insertions if i.placement.versions > 1]
    return (placements[0].versions, placements[0].combine) if placements else (1, "average")


_TURNS: "WeakKeyDictionary[nn.Module, threading.RLock]" = WeakKeyDictionary()
