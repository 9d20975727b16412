"""Figures as people read them: a few digits and a unit."""

import math
from datetime import datetime

from petune.comparison.record import Budget

MISSING = "–"

# A number and its unit stay on one line.
_SPACE = "\N{NO-BREAK SPACE}"


def number(value: float) -> str:
    """Return a metric or a loss with three or four digits."""
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    for limit, decimals in ((10, 3), (100, 2), (1000, 1)):
        if abs(value) < limit:
            return _minus(f"{value:.{decimals}f}")
    return _minus(f"{value:,.0f}")


def signed(value: float) -> str:
    """Return a difference with its sign; what rounds to nothing has none."""
    text = number(value)
    return text if text.startswith("−") or not any(digit in text for digit in "123456789∞") else f"+{text}"


def count(value: float) -> str:
    """Return how many there are of something: 960, 30.7 k, 4.19 M."""
    return _scaled(value, 1000, ("", "k", "M", "G", "T"))


def tick(value: float) -> str:
    """Return a round value with no more digits than it has: 0.25, 20, 500 k."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return _minus(_with(f"{value / limit:g}", unit))
    return _minus(f"{value:g}")


def amount(budget: Budget) -> str:
    """Return a budget: ``512,000 tokens``; a part of one as what a trial makes of it, one step at least."""
    least = 1 if budget.unit == "steps" and budget.amount > 0 else 0
    whole = budget.unit in ("steps", "tokens") or budget.amount == round(budget.amount) or budget.amount >= 100
    written = f"{max(least, round(budget.amount)):,}" if whole else f"{budget.amount:.3g}"
    return _with(written, budget.unit.removesuffix("s") if written == "1" else budget.unit)


def size(value: float) -> str:
    """Return bytes in a unit of their own size."""
    return _scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def share(value: float) -> str:
    """Return a share as a percentage of two or three digits."""
    percent = 100 * value
    most = abs(percent)
    if most >= 100 or percent == 0:
        return _with(_minus(f"{percent:,.0f}"), "%")
    decimals = max(0, 1 - math.floor(math.log10(most)))
    return _with(_minus(f"{percent:.3g}" if most >= 10 else f"{percent:.{decimals}f}"), "%")


def change(value: float) -> str:
    """Return a relative change as a percentage with its sign."""
    text = _minus(f"{100 * value:.1f}")
    return _with(text if text.startswith("−") or text == "0.0" else f"+{text}", "%")


def duration(seconds: float) -> str:
    """Return a time: 4.2 s, 3 min 05 s, 1 h 12 min."""
    if seconds < 60:
        return _with(f"{seconds:.1f}", "s")
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return _SPACE.join((str(minutes), "min", f"{rest:02}", "s"))
    return _SPACE.join((str(minutes // 60), "h", f"{minutes % 60:02}", "min"))


def moment(text: str) -> str:
    """Return a moment in ISO 8601 as date, hour and minute, with its distance from UTC; another text as it is."""
    try:
        known = datetime.fromisoformat(text)
    except ValueError:
        return text
    zone = f" {known.tzname()}" if known.tzinfo is not None else ""
    return f"{known:%Y-%m-%d %H:%M}{zone}"


def _scaled(value: float, step: int, units: tuple[str, ...]) -> str:
    power = 0
    while abs(value) >= step * 0.9995 and power < len(units) - 1:
        value, power = value / step, power + 1
    if power == 0:
        return _with(f"{value:,.0f}", units[0])
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return _with(f"{value:.{digits}f}", units[power])


def _with(written: str, unit: str) -> str:
    return f"{written}{_SPACE}{unit}" if unit else written


def _minus(text: str) -> str:
    """Write a minus as typographers do; nothing is not negative."""
    if not text.startswith("-"):
        return text
    return text.replace("-", "−", 1) if any(digit in text for digit in "123456789") else text[1:]
