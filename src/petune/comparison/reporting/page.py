"""The report as one HTML file that needs nothing else: no script, no request, its style and charts inside."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from petune.comparison.reporting.charts import EXPENSES, cost_chart, distance_chart
from petune.comparison.reporting.contenders import Contender
from petune.comparison.reporting.curves import learning_curves
from petune.comparison.reporting.notices import notices_of
from petune.comparison.reporting.quantities import duration, number
from petune.comparison.reporting.search_curves import search_curves
from petune.comparison.reporting.searched import Search
from petune.comparison.reporting.sections import Report, Section
from petune.comparison.reporting.sentences import anchor
from petune.comparison.reporting.tables import TABLES

_TEMPLATES = Path(__file__).parent / "templates"


@final
@dataclass(frozen=True, slots=True)
class Pictures:
    """The charts of one base; they are built of text that is escaped as it enters them."""

    distance: Markup | None
    costs: list[Markup]
    curves: list[tuple[Contender, Markup]]


def html_page(report: Report) -> str:
    """Return the report as HTML; every text of the records is escaped."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("report.html").render(
        report=report,
        comparison=report.comparison,
        style=Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8").strip()),  # noqa: S704 - our own file
        searched=[_search_pictures(searches, f"search-{i}") for i, (_, searches) in enumerate(report.searches, 1)],
        pictures={section.name: _pictures(section) for section in report.sections},
        tables=TABLES,
        meanings=report.meanings,
        anchor=anchor,
        duration=duration,
        notices_of=notices_of,
        number=number,
    )


def _search_pictures(searches: list[Search], name: str) -> list[tuple[Contender, Markup]]:
    # ElementTree wrote these, which escapes names and hints.
    return [(contender, Markup(chart)) for contender, chart in search_curves(searches, f"{name}-curve")]  # noqa: S704


def _pictures(section: Section) -> Pictures:
    standing, name = section.standing, section.name
    distance = distance_chart(standing, f"{name}-distance")
    costs = [chart for expense in EXPENSES if (chart := cost_chart(standing, expense, f"{name}-{expense.name}"))]
    curves = learning_curves(standing, f"{name}-curve")
    # ElementTree wrote these, which escapes names and hints.
    return Pictures(
        None if distance is None else Markup(distance),  # noqa: S704
        [Markup(chart) for chart in costs],  # noqa: S704
        [(contender, Markup(chart)) for contender, chart in curves],  # noqa: S704
    )
