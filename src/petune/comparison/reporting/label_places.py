"""Where the labels of a chart's points are written so that they cover neither points nor one another."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

from petune.comparison.reporting.svg import width_of

_LETTERS = 12.0
"""Height of a label."""

_POINT = 7.0
"""Half the side of the square that a point keeps free."""

_LINE = 0.4
"""What covering a line counts, where covering a point or a label counts 1."""


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
    """Return a place for each label: near its point, and where it covers little.

    Args:
        labels: the words and their points.
        frame: what the labels must stay inside.
        lines: thin boxes that should rather not be covered.
    """
    points = [Box(label.x - _POINT, label.y - _POINT, label.x + _POINT, label.y + _POINT) for label in labels]
    placed: dict[int, Placed] = {}
    # From the top down, so that the labels of points in a heap fan out in the order of the points.
    for place in sorted(range(len(labels)), key=lambda place: labels[place].y):
        label = labels[place]
        others = [point for number, point in enumerate(points) if number != place]
        written = [found.box for found in placed.values()]

        def cost(
            choice: Placed, label: Label = label, others: list[Box] = others, written: list[Box] = written
        ) -> float:
            box = choice.box
            outside = box.area - box.overlap(frame)
            covered = sum(box.overlap(other) for other in (*others, *written))
            crossed = sum(_crosses(label, choice, other) for other in (*others, *written))
            return 10 * outside + covered + 60 * crossed + _LINE * sum(map(box.overlap, lines)) + _far(label, choice)

        placed[place] = min(_choices(label, frame), key=cost)
    return [placed[place] for place in range(len(labels))]


def _choices(label: Label, frame: Box) -> Iterator[Placed]:
    """Yield places from near to far: beside the point, below and above, then further off in all directions."""
    width = width_of(label.words)
    for x, y in ((9.0, 4.0), (-9.0 - width, 4.0), (-width / 2, 19.0), (-width / 2, -10.0)):
        yield Placed(label.x + x, label.y + y, width, None)
    for far in (15.0, 28.0, 41.0, 54.0, 67.0):
        for down in (far, -far):
            for x in (4.0 + far / 2, -4.0 - far / 2 - width, -width / 2):
                inside = min(max(label.x + x, frame.left), frame.right - width)
                yield _led(label, inside, label.y + 4 + down, width)


def _led(label: Label, x: float, y: float, width: float) -> Placed:
    end = (min(max(label.x, x), x + width), y - _LETTERS + 2 if y > label.y else y + 3)
    return Placed(x, y, width, end)


def _far(label: Label, choice: Placed) -> float:
    return 0.0 if choice.leader is None else 0.6 * math.dist((label.x, label.y), choice.leader)


def _crosses(label: Label, choice: Placed, other: Box) -> bool:
    """Say whether the line from the point to its label goes through a box."""
    if choice.leader is None:
        return False
    x, y = choice.leader
    between = ((label.x + (x - label.x) * part, label.y + (y - label.y) * part) for part in (0.3, 0.45, 0.6, 0.75, 0.9))
    return any(other.left <= at <= other.right and other.top <= down <= other.bottom for at, down in between)
