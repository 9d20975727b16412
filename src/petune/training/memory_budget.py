"""The way to run batches that keeps a run within a memory budget, at the least cost of time."""

from bisect import bisect_left

from petune.errors import ConfigError
from petune.training.byte_sizes import shown_bytes
from petune.training.memory_needs import MemoryNeeds, Way
from petune.training.recomputation import Part, parts_of
from petune.training.rehearsal import Rehearsal, longest, size


def way_within(budget: int, needs: MemoryNeeds, rehearsal: Rehearsal) -> Way:
    """Return how to run batches so that no more than ``budget`` bytes are held.

    Cheap parts of blocks are computed again first, then feed-forward parts, then whole blocks, each kind from the
    lowest block up and no more of them than needed; only then are batches made smaller.

    Raises:
        ConfigError: no way is small enough; the least is named.
    """

    def total(way: Way) -> int:
        return needs.held + needs.of(way).above

    if total(Way()) <= budget:
        return Way()
    largest = max(rehearsal.batches().largest, key=size)
    model = rehearsal.model
    alone = [p for p in parts_of(model.model, model.base.structure) if not any(map(model.reads_beyond, p.paths))]
    parts = needs.saving(alone, largest)
    limit: int | None = None
    most = size(largest)
    while total(Way(tuple(parts), limit)) > budget:
        # A batch of one row cannot be made smaller.
        if all(len(batch) == 1 for batch in rehearsal.batches(limit).largest):
            raise ConfigError(_too_small(budget, total(Way(tuple(parts), limit)), needs.held))
        most = max(most // 2, longest(largest)) if most > longest(largest) else 1
        limit = most
    return Way(_fewest(parts, limit, budget, needs), limit)


def _fewest(parts: list[Part], limit: int | None, budget: int, needs: MemoryNeeds) -> tuple[Part, ...]:
    """Return the fewest of ``parts``, from the first on, that keep within the budget."""
    count = bisect_left(
        range(len(parts)),
        True,
        key=lambda n: needs.held + needs.of(Way(tuple(parts[:n]), limit)).above <= budget,
    )
    return tuple(parts[:count])


def _too_small(budget: int, least: int, held: int) -> str:
    return (
        f"a memory budget of {shown_bytes(budget)} cannot be met: the least is {shown_bytes(least)}, of which"
        f" {shown_bytes(held)} are held before the first step, with all blocks computed again and one row at a time."
        " Give a larger --memory-budget, shorter rows (--max-length), a smaller base, or a method that learns less"
    )
