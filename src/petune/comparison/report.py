"""The report of a comparison: HTML to read, Markdown to paste, CSV to compute with, JSON with everything."""

from pathlib import Path

from petune.checkpoint.durable import write_text
from petune.comparison.record import Comparison
from petune.comparison.reporting.markdown import markdown_page
from petune.comparison.reporting.page import html_page
from petune.comparison.reporting.sections import report_of
from petune.comparison.reporting.spreadsheet import spreadsheet

NAME = "report"


def write_report(comparison: Comparison, folder: Path) -> list[Path]:
    """Write ``report.html``, ``.md``, ``.csv`` and ``.json``; the same comparison makes the same files.

    Args:
        comparison: finished, or as far as it has come.
        folder: of the comparison; made if it is missing.

    Returns:
        The files.

    Raises:
        OutputFolderError: the folder cannot be written.
        ResourceError: the disk is full.
    """
    report = report_of(comparison)
    contents = {
        ".html": html_page(report),
        ".md": markdown_page(report),
        ".csv": spreadsheet(comparison),
        ".json": comparison.model_dump_json(indent=2) + "\n",
    }
    paths = []
    for ending, content in contents.items():
        paths.append(folder / f"{NAME}{ending}")
        write_text(paths[-1], content)
    return paths
