"""Which adapters rows can go through one after the other, and which rows of one batch can go through apart.

Every slot of a stack changes what the slots before it made, the base's own sub-module first. A copy of a sub-module
that was learned whole takes its place instead, so it may undo what others do there.
"""

from collections.abc import Iterable, Sequence
from itertools import combinations

from petune.adapter import Adapter
from petune.backbone.structure import Structure
from petune.errors import ConfigError


def require_stackable(stack: Sequence[Adapter]) -> None:
    """Make sure that each of several adapters, in this order, has the effect it was trained for.

    Raises:
        ConfigError: one is named twice, two learn the same module or token, or one would undo what another does.
    """
    for first, second in combinations(stack, 2):
        if first.name == second.name:
            raise ConfigError(f"'{first.name}' is named twice in one stack; name it once")
        _refuse_shared(first, second)
        for whole, other, comes_first in ((first, second, True), (second, first, False)):
            for path in whole.replacements:
                if any(inner.startswith(f"{path}.") for inner in other.slots):
                    raise ConfigError(
                        f"'{whole.name}' learns '{path}' whole, so what '{other.name}' adapts inside it would do"
                        " nothing; use one of them at a time"
                    )
                if path in other.slots and not comes_first:
                    raise ConfigError(
                        f"'{whole.name}' learns '{path}' whole, which would undo what '{other.name}' does there; put"
                        f" '{whole.name}' before '{other.name}'"
                    )


def require_rows_apart(adapters: Iterable[Adapter], structure: Structure) -> None:
    """Make sure that rows of one batch may go through some of the adapters each.

    Raises:
        ConfigError: one adapts experts: these are given chosen tokens of the batch, and not told whose rows they are.
    """
    if not structure.experts:
        return
    for adapter in adapters:
        for path in adapter.slots:
            inside = next((outer for outer in structure.experts if path.startswith(f"{outer}.")), None)
            if inside is not None:
                raise ConfigError(
                    f"'{adapter.name}' adapts '{path}', one of the experts in '{inside}', which see some tokens of a"
                    " batch and not whose rows they are: send all rows of a batch through the same adapters, train"
                    " adapters apart, or leave experts out with exclude_modules"
                )


def _refuse_shared(first: Adapter, second: Adapter) -> None:
    """Refuse two adapters that learn the same module, or the same token's row, anew."""
    shared = sorted(first.replacements.keys() & second.replacements.keys())
    if shared:
        raise ConfigError(
            f"'{first.name}' and '{second.name}' both learn '{shared[0]}' whole, so rows cannot go through the two: use"
            " one at a time"
        )
    for path, rows in first.token_rows.items():
        others = second.token_rows.get(path)
        tokens = set() if others is None else set(rows.indices.tolist()) & set(others.indices.tolist())
        if tokens:
            raise ConfigError(
                f"'{first.name}' and '{second.name}' both learn the rows of tokens {sorted(tokens)[:5]} of '{path}', so"
                " rows of a batch cannot go through the two: use one at a time"
            )
