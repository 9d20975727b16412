"""Which sequences are run so that all queries are answered.

In a causal model nothing that follows a token changes what is known at it. So a query whose tokens another one begins
with is answered on the way: the scores of label words while the loss of the right answer is computed, for one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True, slots=True)
class Query:
    """A sequence, and the positions whose hidden states say the distribution that is wanted.

    In a causal model that is of the next token: the answer begins behind the first of them, and nothing after the last
    is computed.
    """

    input_ids: Sequence[int]
    positions: Sequence[int]
    """In ascending order."""
    whole: bool = False
    """Whether the model reads what is behind the positions too, as an encoder does."""

    @property
    def length(self) -> int:
        """How many tokens are run."""
        return len(self.input_ids) if self.whole else self.positions[-1] + 1

    @property
    def read(self) -> tuple[int, ...]:
        """The tokens that are run."""
        return tuple(self.input_ids[: self.length])


@final
@dataclass(frozen=True, slots=True)
class Pass:
    """A sequence that is run."""

    query: Query
    """The sequence, and all positions that are asked for."""
    answers: tuple[int, ...]
    """Numbers of the queries that it answers."""


def passes_for(queries: Sequence[Query]) -> list[Pass]:
    """Return the fewest passes that answer ``queries``, in the order of the first query of each.

    Queries share one only where their answers begin at the same place, since an adapter may act on answers alone.
    """
    # Behind a sequence come at once those that begin with it.
    order = sorted(range(len(queries)), key=lambda i: (queries[i].whole, queries[i].positions[0], queries[i].read))
    shared: list[list[int]] = []
    for number in reversed(order):
        if shared and _is_answered_by(queries[number], queries[shared[-1][0]]):
            shared[-1].append(number)
        else:
            shared.append([number])
    return sorted((_pass(queries, numbers) for numbers in shared), key=lambda one: one.answers[0])


def _is_answered_by(query: Query, longer: Query) -> bool:
    if query.whole != longer.whole or query.positions[0] != longer.positions[0]:
        return False
    return query.read == (longer.read if query.whole else longer.read[: query.length])


def _pass(queries: Sequence[Query], numbers: Sequence[int]) -> Pass:
    """Return the pass that answers the queries with these numbers, the longest of them first."""
    longest = queries[numbers[0]]
    positions = sorted({position for number in numbers for position in queries[number].positions})
    return Pass(Query(longest.input_ids, positions, whole=longest.whole), tuple(sorted(numbers)))
