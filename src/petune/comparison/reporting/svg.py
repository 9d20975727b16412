"""Small drawings in SVG, coloured by the page that holds them, so that they follow its light or dark theme.

Nothing is coloured here: each shape has a class, and the style sheet says what it looks like.
"""

import unicodedata
import xml.etree.ElementTree as ET
from typing import final

LETTER = 7.0
"""Width of a letter of the charts' labels, about; in units of the drawing, as all lengths here."""


@final
class Drawing:
    """An SVG picture under construction.

    Args:
        name: unique in the page; the ids of its description begin with it.
        width: of the picture.
        height: of the picture.
        title: what the picture shows, in a few words, for those who do not see it.
        description: the figures, in words.
    """

    def __init__(self, name: str, width: float, height: float, title: str, description: str) -> None:
        self._root = ET.Element(
            "svg",
            {
                "viewBox": f"0 0 {width:g} {height:g}",
                "role": "img",
                "aria-labelledby": f"{name}-title {name}-text",
            },
        )
        ET.SubElement(self._root, "title", {"id": f"{name}-title"}).text = title
        ET.SubElement(self._root, "desc", {"id": f"{name}-text"}).text = description

    def line(self, kind: str, x1: float, y1: float, x2: float, y2: float) -> None:
        """Draw a line of the class ``kind``."""
        ET.SubElement(self._root, "line", {"class": kind, **_places(x1=x1, y1=y1, x2=x2, y2=y2)})

    def path(self, kind: str, points: list[tuple[float, float]]) -> None:
        """Draw a line through points; none where there are none."""
        if not points:
            return
        course = " ".join(f"{'L' if place else 'M'}{x:.1f} {y:.1f}" for place, (x, y) in enumerate(points))
        ET.SubElement(self._root, "path", {"class": kind, "d": course})

    def circle(self, kind: str, x: float, y: float, radius: float, hint: str = "") -> None:
        """Draw a circle; ``hint`` shows when the pointer rests on it."""
        circle = ET.SubElement(self._root, "circle", {"class": kind, **_places(cx=x, cy=y, r=radius)})
        if hint:
            ET.SubElement(circle, "title").text = hint

    def text(self, kind: str, x: float, y: float, words: str, anchor: str = "start") -> None:
        """Write words that begin, end or have their middle at ``x``."""
        ET.SubElement(self._root, "text", {"class": kind, **_places(x=x, y=y), "text-anchor": anchor}).text = words

    def markup(self) -> str:
        """Return the picture."""
        return ET.tostring(self._root, encoding="unicode")


def _places(**values: float) -> dict[str, str]:
    return {name: f"{value:.1f}" for name, value in values.items()}


def width_of(words: str) -> float:
    """Return about how wide a label is."""
    return LETTER * sum(1.75 if unicodedata.east_asian_width(letter) in "WF" else 1.0 for letter in words)


def shortened(words: str, width: float) -> str:
    """Return a label that fits into ``width``, with an ellipsis where some of it is left out."""
    if width_of(words) <= width:
        return words
    while words and width_of(words) + LETTER > width:
        words = words[:-1]
    return f"{words.rstrip()}…"
