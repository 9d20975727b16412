"""Log-probabilities of tokens at chosen positions of many sequences.

Only the hidden states at those positions go through the output head: the logits of a prompt, by far the
largest tensor of a forward pass, never exist. The model's own forward pass computes them, so that whatever it
does with logits (scaling, soft caps) is done here too.

Rows are padded on the right. Under a causal mask no token sees the padding and positions count from zero as
they do for a row alone, so a row's result depends on its batch in the rounding of sums only.

Shapes: B rows of a batch, T tokens of its longest row, K scored positions of a row, d hidden size, V
    vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, final

import torch
from torch import Tensor, nn

from petune.backbone.arguments import without_cache
from petune.data.batching import collate, split_step
from petune.data.encoding import IGNORED, Encoded
from petune.errors import BaseModelError
from petune.evaluation.passes import Query, passes_for
from petune.evaluation.runner import Runner, evaluating
from petune.sites.routing import Routing

MAX_LOGITS = 2**26
"""Most logits (B x K x V) of one forward pass; 256 MiB in fp32."""


Read = Callable[[int, Tensor], Tensor]
"""Takes a query's number and its log-probabilities [K, V] in fp32; returns the small tensor to keep."""

T = TypeVar("T")


@final
@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """What is wanted of the log-probabilities of many sequences.

    Attributes:
        queries: what to run; each with at least one position.
        read: called once for each query; must not keep the tensor it is given.
        finish: makes the result of what ``read`` returned, in the order of the queries.
    """

    queries: Sequence[Query]
    read: Read
    finish: Callable[[list[Tensor]], T]


def read_log_probabilities(runner: Runner, readings: Sequence[Reading[Any]], *, batch_tokens: int) -> list[Any]:
    """Return the result of each reading; queries of one or of several share passes where they can.

    Args:
        runner: the model.
        readings: what is wanted.
        batch_tokens: most tokens of a batch, padding included; a longer query is a batch of its own.

    Raises:
        BaseModelError: the model has no output head over a vocabulary.
    """
    head = runner.model.get_output_embeddings()
    if head is None:
        raise BaseModelError(
            f"{type(runner.model).__name__} has no output head over a vocabulary; use a causal language model"
        )
    vocabulary = runner.model.config.get_text_config().vocab_size
    asked = [(reading, i) for reading in readings for i in range(len(reading.queries))]
    passes = passes_for([reading.queries[i] for reading, i in asked])
    results: dict[int, Tensor] = {}
    with evaluating(runner):
        for batch in _batches([one.query for one in passes], vocabulary, batch_tokens):
            logits = _logits(runner, head, [passes[number].query for number in batch])
            for number, row in zip(batch, logits, strict=True):
                own = passes[number]
                shares = torch.log_softmax(row[: len(own.query.positions)].to(torch.float32), dim=-1)
                for answered in own.answers:
                    reading, i = asked[answered]
                    results[answered] = reading.read(i, _of(reading.queries[i], own.query, shares))
    found = iter([results[number] for number in range(len(asked))])
    return [reading.finish([next(found) for _ in reading.queries]) for reading in readings]


def _of(query: Query, one: Query, shares: Tensor) -> Tensor:
    """Return the log-probabilities at the positions of ``query``, of those at all positions of its pass ``one``."""
    if len(query.positions) == len(one.positions):
        return shares
    places = [one.positions.index(position) for position in query.positions]
    return shares[torch.tensor(places, device=shares.device)]


def _batches(queries: Sequence[Query], vocabulary: int, batch_tokens: int) -> list[list[int]]:
    """Group queries of like cost; a cost counts tokens, or logits where these are what fills the memory."""
    costs = [max(q.length, -(-len(q.positions) * vocabulary * batch_tokens // MAX_LOGITS)) for q in queries]
    return split_step(range(len(queries)), costs, max_rows=None, max_tokens=batch_tokens)


def _logits(runner: Runner, head: nn.Module, queries: Sequence[Query]) -> Tensor:
    """Return the logits [B, K, V] at the positions of each query; short rows repeat their last position."""
    lengths = [q.length for q in queries]
    rows = [
        Encoded(list(q.input_ids[:length]), [IGNORED] * length, "") for q, length in zip(queries, lengths, strict=True)
    ]
    batch = collate(rows, pad_token_id=runner.tokenizer.pad_token_id, device=runner.device)
    most = max(len(q.positions) for q in queries)
    positions = torch.tensor(
        [[*q.positions, *[q.positions[-1]] * (most - len(q.positions))] for q in queries],
        device=runner.device,
    )
    answers = Routing.of(runner.model).answers_from([q.positions[0] + 1 for q in queries])
    with answers, _head_at(head, positions, num_tokens=max(lengths)):
        output = runner.model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **without_cache(runner.model)
        )
    logits: Tensor = output.logits
    return logits


@contextmanager
def _head_at(head: nn.Module, positions: Tensor, num_tokens: int) -> Iterator[None]:
    """Let the output head see the hidden states at ``positions`` [B, K] only.

    Positions count the ``num_tokens`` given tokens. Virtual tokens that an adapter put before them lie
    further left.
    """

    def select(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = inputs[0][:, -num_tokens:]
        return (torch.take_along_dim(hidden, positions.to(hidden.device)[..., None], dim=1), *inputs[1:])

    handle = head.register_forward_pre_hook(select, prepend=True)
    try:
        yield
    finally:
        handle.remove()
