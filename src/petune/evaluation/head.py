"""Log-probabilities of tokens at chosen positions of many sequences.

Only the hidden states at those positions go through the output head: the logits of a prompt, by far the
largest tensor of a forward pass, never exist. The model's own forward pass computes them, so that whatever it
does with logits (scaling, soft caps) is done here too.

Rows are padded on the right. Under a causal mask no token sees the padding and positions count from zero as
they do for a row alone, so a row's result depends on its batch in the rounding of sums only.

Shapes: B rows of a batch, T tokens of its longest row, K scored positions of a row, k of them at a time, d hidden size,
    V vocabulary.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from petune.backbone.arguments import without_cache
from petune.data.batching import collate, split_step
from petune.data.encoding import IGNORED, Encoded
from petune.errors import BaseModelError
from petune.evaluation.passes import Query, passes_for
from petune.evaluation.runner import Runner, evaluating
from petune.sites.routing import Routing

MAX_LOGITS = 2**26
"""Most logits (B x k x V) at a time; 256 MiB in fp32."""


Read = Callable[[int, int, Tensor], Tensor]
"""Takes a query's number, the number of one of its positions, and the log-probabilities [k, V] from there on in fp32;
returns the small tensor to keep. What it returns for the parts of a query is added up."""

T = TypeVar("T")


@final
@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """What is wanted of the log-probabilities of many sequences.

    Attributes:
        queries: what to run; each with at least one position.
        read: called once for each query, or for each part of a long one; must not keep the tensor it is given.
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
    if runner.model.get_output_embeddings() is None:
        raise BaseModelError(
            f"{type(runner.model).__name__} has no output head over a vocabulary; use a causal language model"
        )
    vocabulary = runner.model.config.get_text_config().vocab_size
    asked = [(reading, i) for reading in readings for i in range(len(reading.queries))]
    passes = passes_for([reading.queries[i] for reading, i in asked])
    results: dict[int, Tensor] = {}
    with evaluating(runner):
        for batch in _batches([one.query for one in passes], vocabulary, batch_tokens):
            with closing(_log_probabilities(runner, [passes[n].query for n in batch], vocabulary)) as parts:
                for place, positions, shares in parts:
                    for number in passes[batch[place]].answers:
                        reading, i = asked[number]
                        first, own = _of(reading.queries[i], positions, shares)
                        if len(own):
                            results[number] = results.get(number, 0) + reading.read(i, first, own)
    found = iter([results[number] for number in range(len(asked))])
    return [reading.finish([next(found) for _ in reading.queries]) for reading in readings]


def _of(query: Query, positions: Sequence[int], shares: Tensor) -> tuple[int, Tensor]:
    """Return which position of ``query`` is the first among ``positions``, and the shares at those that are its own."""
    start, end = bisect_left(query.positions, positions[0]), bisect_right(query.positions, positions[-1])
    if end - start == len(positions):
        return start, shares
    places = [bisect_left(positions, position) for position in query.positions[start:end]]
    return start, shares[torch.tensor(places, dtype=torch.int64, device=shares.device)]


def _batches(queries: Sequence[Query], vocabulary: int, batch_tokens: int) -> list[list[int]]:
    """Group queries of like cost; a cost counts tokens, or logits where these are what fills the memory."""
    costs = [max(q.length, -(-len(q.positions) * vocabulary * batch_tokens // MAX_LOGITS)) for q in queries]
    return split_step(range(len(queries)), costs, max_rows=None, max_tokens=batch_tokens)


def _log_probabilities(
    runner: Runner, queries: Sequence[Query], vocabulary: int
) -> Generator[tuple[int, Sequence[int], Tensor]]:
    """Yield the place of a query, some of its positions, and the log-probabilities [k, V] there, in fp32."""
    lengths = [q.length for q in queries]
    rows = [
        Encoded(list(q.input_ids[:length]), [IGNORED] * length, "") for q, length in zip(queries, lengths, strict=True)
    ]
    batch = collate(rows, pad_token_id=runner.tokenizer.pad_token_id, device=runner.device)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    most = max(len(q.positions) for q in queries)
    positions = torch.tensor(  # short rows repeat their last one
        [[*q.positions, *[q.positions[-1]] * (most - len(q.positions))] for q in queries],
        device=runner.device,
    )
    answers = Routing.of(runner.model).answers_from([q.positions[0] + 1 for q in queries])
    with answers, closing(logits_in_parts(runner.model, inputs, positions, max(lengths), vocabulary)) as parts:
        for first, logits in parts:
            for place, (query, row) in enumerate(zip(queries, logits, strict=True)):
                own = query.positions[first : first + len(row)]
                yield place, own, torch.log_softmax(row[: len(own)].to(torch.float32), dim=-1)


def logits_in_parts(
    model: PreTrainedModel, inputs: Mapping[str, Tensor], positions: Tensor, num_tokens: int, vocabulary: int
) -> Generator[tuple[int, Tensor]]:
    """Yield logits [B, k, V] at some of ``positions`` at a time, with the number of the first; close it when done.

    Args:
        model: a model with an output head.
        inputs: what it takes.
        positions: where logits are wanted [B, K].
        num_tokens: how many tokens the head's model reads.
        vocabulary: V.
    """
    head = model.get_output_embeddings()
    size = max(1, MAX_LOGITS // (len(positions) * vocabulary))
    with _bodies_run_once(model, head) if size < positions.shape[1] else nullcontext():
        for first in range(0, positions.shape[1], size):
            with _head_at(head, positions[:, first : first + size], num_tokens):
                logits: Tensor = model(**inputs, **without_cache(model)).logits
            yield first, logits


@contextmanager
def _bodies_run_once(model: nn.Module, head: nn.Module) -> Iterator[None]:
    """Run what makes hidden states in the first pass inside the block alone; all passes must be of the same inputs.

    What the model does around its head is done in each pass. A model that calls parts of its body is run whole.
    """
    bodies = [body for body in model.children() if any(body.children()) and head not in body.modules()]
    former = [vars(body).get("forward") for body in bodies]
    inside: list[bool] = []  # the model's own pass, and not what is computed for it before
    hooks = (
        model.register_forward_pre_hook(lambda *_: inside.append(True)),
        model.register_forward_hook(lambda *_: inside.clear(), always_call=True),
    )
    for body in bodies:
        body.forward = _once(body.forward, inside)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for body, own in zip(bodies, former, strict=True):
            if own is None:
                del body.forward
            else:
                body.forward = own


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


def _once(forward: Callable[..., Any], inside: Sequence[bool]) -> Callable[..., Any]:
    """Return ``forward`` with what its first call gave given at every other, where ``inside`` says so."""
    given: list[Any] = []

    def run(*args: Any, **kwargs: Any) -> Any:
        if not inside:
            return forward(*args, **kwargs)
        if not given:
            given.append(forward(*args, **kwargs))
        return given[0]

    return run
