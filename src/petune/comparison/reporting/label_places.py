"""Where the labels of a chart's points are written so that they cover neither points nor one another."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

from petune.comparison.reporting.svg import width_of

_LETTERS = 12.0
"""Height of a label."""

_POINT = 7.0
"""Half the side of the square that a point keeps free."""


@final
@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle; y points down."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: "Box") -> float:
        """Return the area that two rectangles share."""
        across = min(self.right, other.right) - max(self.left, other.left)
        down = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(across, 0.0) * max(down, 0.0)

    @property
    def area(self) -> float:
        """Its area."""
        return (self.right - self.left) * (self.bottom - self.top)


@final
@dataclass(frozen=True, slots=True)
class Label:
    """The words that belong to a point, and the point's place."""

    words: str
    x: float
    y: float


@final
@dataclass(frozen=True, slots=True)
class Placed:
    """Where a label's first letter stands, on its base line."""

    x: float
    y: float
    width: float

    leader: tuple[float, float] | None
    """Where a line from the point ends at the label; None where the label stands beside its point."""

    @property
    def box(self) -> Box:
        """What it covers."""
        return Box(self.x, self.y - _LETTERS + 1, self.x + self.width, self.y + 2)


def place_labels(labels: Sequence[Label], frame: Box, lines: Sequence[Box] = ()) -> list[Placed]:
    """Return a place for each label: the nearest to its point at which it covers least.

    Args:
        labels: the words and their points.
        frame: what the labels must stay inside.
        lines: thin boxes that should rather not be covered.
    """
    points = [Box(label.x - _POINT, label.y - _POINT, label.x + _POINT, label.y + _POINT) for label in labels]
    taken = [*points, *lines]
    placed: dict[int, Placed] = {}
    # From the top down, so that the labels of points in a heap fan out in the order of the points.
    for place in sorted(range(len(labels)), key=lambda place: labels[place].y):
        choices = list(_choices(labels[place]))
        costs = [_cost(choice, taken, frame) for choice in choices]
        placed[place] = choices[costs.index(min(costs))]
        taken.append(placed[place].box)
    return [placed[place] for place in range(len(labels))]


def _choices(label: Label) -> Iterator[Placed]:
    """Yield places from near to far: beside the point, below and above, then further off in all directions."""
    width = width_of(label.words)
    for x, y in ((9.0, 4.0), (-9.0 - width, 4.0), (-width / 2, 19.0), (-width / 2, -10.0)):
        yield Placed(label.x + x, label.y + y, width, None)
    for far in (15.0, 28.0, 41.0, 54.0, 67.0):
        for down in (far, -far):
            for x in (4.0 + far / 2, -4.0 - far / 2 - width, -width / 2):
                yield _led(label, label.x + x, label.y + 4 + down, width)


def _led(label: Label, x: float, y: float, width: float) -> Placed:
    end = (min(max(label.x, x), x + width), y - _LETTERS + 2 if y > label.y else y + 3)
    return Placed(x, y, width, end)


def _cost(choice: Placed, taken: Sequence[Box], frame: Box) -> float:
    outside = choice.box.area - choice.box.overlap(frame)
    return 10 * outside + sum(choice.box.overlap(box) for box in taken)
