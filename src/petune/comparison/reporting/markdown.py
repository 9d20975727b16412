"""The report as Markdown, for places that show it: the same words and tables, without the charts."""

import html
import re
from collections.abc import Iterable, Iterator, Sequence

from petune.comparison.reporting.columns import Line, Table
from petune.comparison.reporting.notices import notices_of
from petune.comparison.reporting.quantities import duration
from petune.comparison.reporting.searched import Search
from petune.comparison.reporting.sections import Report, Section
from petune.comparison.reporting.sentences import Sentence, anchor
from petune.comparison.reporting.tables import TABLES

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#|!~$])")
# At the beginning of a line these would open a list, a heading, a rule or a quotation.
_OPENING = re.compile(r"^(\d+)?([-+=]|(?<=\d)[.)])")


def markdown_page(report: Report) -> str:
    """Return the report as Markdown; every text of the records is escaped."""
    blocks = [f"# {escaped(report.title)}", escaped(report.summary)]
    if report.comparison.finished is None:
        blocks.append("**Not finished.** Some trials are still to run, so figures and order may change.")
    if report.across:
        blocks += ["## All bases together", _reading(report.across)]
    for section in report.sections:
        blocks += _section(section)
    if report.searches:
        blocks += ["## The search for settings", escaped(report.search_summary)]
        for base, searches in report.searches:
            blocks += [f"### {escaped(base)}", _searches(searches)]
    blocks += _commands(report)
    blocks += ["## About this comparison", *_about(report)]
    return "\n\n".join(blocks) + "\n"


def escaped(text: str) -> str:
    """Return text in one line that Markdown shows as it is, in a paragraph or in a table's cell."""
    line = " ".join(text.split())
    return _OPENING.sub(r"\1\\\2", _SPECIAL.sub(r"\\\1", html.escape(line, quote=False)))


def fenced(text: str, language: str = "text") -> str:
    """Return text as a block of code, which nothing in it can end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _reading(sentences: Iterable[Sentence]) -> str:
    lines = []
    for sentence in sentences:
        links = " ".join(f"[{contender.number}](#{name})" for contender, name in sentence.links)
        lines.append(f"- {escaped(sentence.text)} ({links})")
    return "\n".join(lines)


def _section(section: Section) -> Iterator[str]:
    yield f"## {escaped(section.standing.base)}"
    yield _reading(section.sentences)
    for table, lines in section.tables:
        yield f"### {table.title}"
        if table.name == "quality":
            yield escaped(section.standing.measured)
        yield _table(table, lines)
    missing = [table.title.lower() for table in TABLES if table not in section.shown]
    if missing:
        yield f"Not measured: {', '.join(missing)}."
    if section.asked:
        yield "### Example answers"
    for asked in section.asked:
        yield f"**Test row {asked.number}**"
        yield fenced(asked.prompt)
        if asked.references:
            yield f"Right answer: {' or '.join(map(escaped, asked.references))}"
        for answer in asked.answers:
            yield f"{_name(answer.contender.number, answer.contender.label)}{', right' if answer.right else ''}:"
            if answer.prompt is not None:
                yield "Asked as:"
                yield fenced(answer.prompt)
                yield "Answered:"
            yield fenced(answer.text)


def _name(number: int, label: str) -> str:
    return f"\\[{number}\\] {escaped(label)}"


def _table(table: Table, lines: Sequence[Line]) -> str:
    rows = [["Method", *(column.head for column in table.columns)], ["---", *("---:" for _ in table.columns)]]
    for line in lines:
        contender = line.contender
        name = f'<a id="{anchor(contender, table.name)}"></a>{_name(contender.number, contender.label)}'
        notices = [
            f"{notice.status}: {notice.text}" if notice.text else notice.status for notice in notices_of(contender)
        ]
        said = escaped("; ".join(notices))
        if not contender.done:
            short = ", ".join(notice.status for notice in notices_of(contender))
            rows.append([name, said if table.name == "quality" else short, *("" for _ in table.columns[1:])])
            continue
        if said and table.name == "quality":
            name = f"{name}<br>{said}"
        if contender.set_to and table.name == "quality":
            name = f"{name}<br>{escaped(contender.set_to)}"
        cells = [f"**{cell.text}**" if cell.leads else cell.text for cell in line.cells]
        notes = ["".join(f"<br>{note}" for note in cell.notes) for cell in line.cells]
        rows.append([name, *(f"{cell}{note}" for cell, note in zip(cells, notes, strict=True))])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _searches(searches: Iterable[Search]) -> str:
    rows = [
        "| Method | Tried, and the metric on the development split | Trials | Time |",
        "| --- | --- | ---: | ---: |",
    ]
    for search in searches:
        contender = search.contender
        name = f'<a id="{anchor(contender, "search")}"></a>{_name(contender.number, contender.label)}'
        tried = [
            f"{escaped(c.settings)}{' **(chosen)**' if c.chosen else ''}: {escaped('; '.join(c.results))}"
            for c in search.candidates
        ]
        rows.append(f"| {name} | {'<br>'.join(tried)} | {search.trials} | {duration(search.seconds)} |")
    return "\n".join(rows)


def _commands(report: Report) -> Iterator[str]:
    yield "## Commands"
    if report.uses:
        yield "To use the winner, in the folder of this report:"
    for use in report.uses:
        yield f"{_name(use.contender.number, use.contender.label)}, {escaped(use.why)}:"
        yield fenced("\n".join(use.lines), "bash")
        yield fenced(use.python, "python")
    yield f"To repeat all of it, from the folder {report.repeated_from}:"
    yield fenced(report.repeat, "bash")
    yield "To repeat a single trial, from the folder that the comparison was started from:"
    for section in report.sections:
        for contender in section.standing.contenders:
            if contender.trials:
                yield f"{_name(contender.number, contender.label)} on {escaped(contender.base)}:"
                yield fenced("\n".join(map(report.command, contender.trials)), "bash")


def _about(report: Report) -> Iterator[str]:
    yield "\n".join(
        ["| | |", "| --- | --- |", *(f"| {escaped(name)} | {escaped(value)} |" for name, value in report.facts)]
    )
    yield "What was asked for:"
    yield fenced(report.recipe, "yaml")
    yield "What the words mean:"
    meanings = [(column.head, column.meaning) for table in TABLES for column in table.columns]
    yield "\n".join(f"- {name}: {meaning}" for name, meaning in (*meanings, *report.meanings))
