"""The mean loss per label token."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from petune.data.encoding import IGNORED, Encoded
from petune.errors import DataError
from petune.evaluation.head import Reading, read_log_probabilities
from petune.evaluation.metrics import perplexity
from petune.evaluation.passes import Query
from petune.evaluation.runner import Runner


@final
@dataclass(frozen=True, slots=True)
class TokenLoss:
    """Negative log-likelihoods of label tokens, in nats."""

    rows: tuple[tuple[str, float, int], ...]
    """Of each row, or each version of one: its origin, the sum over its label tokens, and how many there are."""

    @classmethod
    def of(cls, rows: Sequence[Encoded], sums: Iterable[float], tokens: Iterable[int]) -> "TokenLoss":
        """Return the losses of ``rows`` with these sums over so many label tokens."""
        return cls(tuple(zip((row.origin for row in rows), sums, tokens, strict=True)))

    @property
    def total(self) -> float:
        """The sum over all label tokens."""
        return math.fsum(own for _, own, _ in self.rows)

    @property
    def tokens(self) -> int:
        """How many label tokens there are."""
        return sum(count for *_, count in self.rows)

    @property
    def by_origin(self) -> dict[str, float]:
        """Nats per label token of each row that has one, its versions together."""
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for origin, own, count in self.rows:
            sums[origin] = sums.get(origin, 0.0) + own
            counts[origin] = counts.get(origin, 0) + count
        return {origin: sums[origin] / count for origin, count in counts.items() if count}

    @property
    def mean(self) -> float:
        """Nats per label token."""
        return self.total / self.tokens

    @property
    def perplexity(self) -> float:
        """The exponential of the mean; infinite where it is too large for a float."""
        return perplexity(self.mean)


def token_loss(runner: Runner, rows: Sequence[Encoded], *, batch_tokens: int = 8192) -> TokenLoss:
    """Return the loss of the labels of ``rows``, with the log-softmax in fp32.

    Args:
        runner: the model.
        rows: token ids and labels. A label on a row's first token has nothing to be predicted from and is
            left out.
        batch_tokens: most tokens of a batch, padding included.

    Raises:
        DataError: no row has a label.
    """
    found: TokenLoss
    (found,) = read_log_probabilities(runner, [loss_reading(rows)], batch_tokens=batch_tokens)
    return found


def loss_reading(rows: Sequence[Encoded]) -> Reading[TokenLoss]:
    """Return what is to be read for :func:`token_loss`, for the same rows and with the same errors."""
    scored = [(row, [t for t in range(len(row.labels) - 1) if row.labels[t + 1] != IGNORED]) for row in rows]
    scored = [(row, positions) for row, positions in scored if positions]
    if not scored:
        raise DataError(
            f"none of the {len(rows):,} rows has a label token to compute a loss on; give rows with targets"
        )
    targets = [torch.tensor([row.labels[t + 1] for t in positions]) for row, positions in scored]

    def read(index: int, first: int, log_probabilities: Tensor) -> Tensor:
        target = targets[index][first : first + len(log_probabilities)].to(log_probabilities.device)
        return -log_probabilities.gather(1, target[:, None]).sum()

    def finish(losses: list[Tensor]) -> TokenLoss:
        return TokenLoss.of([row for row, _ in scored], (loss.item() for loss in losses), map(len, targets))

    return Reading([Query(row.input_ids, positions) for row, positions in scored], read, finish)
