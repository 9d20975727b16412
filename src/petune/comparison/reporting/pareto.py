"""The Pareto front: the points that no other point beats in both directions."""

from collections.abc import Sequence


def front(points: Sequence[tuple[float, float]], *, higher_is_better: bool) -> list[int]:
    """Return the places of the points on the front, cheapest first.

    Args:
        points: cost (less is better) and quality of each.
        higher_is_better: whether more quality is better.
    """
    sign = -1 if higher_is_better else 1
    order = sorted(range(len(points)), key=lambda place: (points[place][0], sign * points[place][1]))
    found: list[int] = []
    for place in order:
        if not found or sign * points[place][1] < sign * points[found[-1]][1]:
            found.append(place)
    return found
