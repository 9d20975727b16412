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
from typing import Any

import torch
from torch import Tensor, nn

from petune.backbone.arguments import without_cache
from petune.data.batching import collate, split_step
from petune.data.encoding import IGNORED, Encoded
from petune.errors import BaseModelError
from petune.evaluation.runner import Runner, evaluating
from petune.sites.routing import Routing

MAX_LOGITS = 2**26
"""Most logits (B x K x V) of one forward pass; 256 MiB in fp32."""


@dataclass(frozen=True, slots=True)
class Query:
    """A sequence, and the positions whose hidden states say the distribution that is wanted.

    In a causal model that is of the next token: the answer begins behind the first of them, and nothing after the last
    is computed.
    """

    input_ids: Sequence[int]
    positions: Sequence[int]
    whole: bool = False
    """Whether the model reads what is behind the positions too, as an encoder does."""

    @property
    def length(self) -> int:
        """How many tokens are run."""
        return len(self.input_ids) if self.whole else self.positions[-1] + 1


Read = Callable[[int, Tensor], Tensor]
"""Takes a query's index and its log-probabilities [K, V] in fp32; returns the small tensor to keep."""


def read_log_probabilities(runner: Runner, queries: Sequence[Query], read: Read, *, batch_tokens: int) -> list[Tensor]:
    """Run every query and return what ``read`` made of its log-probabilities, in the order of the queries.

    Args:
        runner: the model.
        queries: what to run; each with at least one position.
        read: called once for each query; must not keep the tensor it is given.
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
    results: dict[int, Tensor] = {}
    with evaluating(runner):
        for batch in _batches(queries, vocabulary, batch_tokens):
            logits = _logits(runner, head, [queries[i] for i in batch])
            for i, row in zip(batch, logits, strict=True):
                scored = row[: len(queries[i].positions)].to(torch.float32)
                results[i] = read(i, torch.log_softmax(scored, dim=-1))
    return [results[i] for i in range(len(queries))]


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
