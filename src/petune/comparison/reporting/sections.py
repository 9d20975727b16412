"""What the report says, in the order in which it says it; how it looks is left to its pages."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import yaml

from petune.comparison.command import trusting
from petune.comparison.record import Comparison, Trial
from petune.comparison.reporting.answers import Asked, answers_of
from petune.comparison.reporting.columns import Line, Table, lines_of
from petune.comparison.reporting.commands import Use, uses_of
from petune.comparison.reporting.contenders import contenders_of
from petune.comparison.reporting.highlights import Highlight, highlights_of
from petune.comparison.reporting.intervals import LEVEL, RESAMPLES
from petune.comparison.reporting.quantities import amount, count, duration, moment, share, size
from petune.comparison.reporting.reading import reading_across, reading_of
from petune.comparison.reporting.reading_training import FALLING, OVERFITTING
from petune.comparison.reporting.reading_use import FORGOTTEN, LENGTH, OTHER_LANGUAGE, SLOWER
from petune.comparison.reporting.searched import Search, searches_of
from petune.comparison.reporting.sentences import Sentence
from petune.comparison.reporting.sharing import sharing_of
from petune.comparison.reporting.standing import Standing, standings_of
from petune.comparison.reporting.tables import TABLES

MEANINGS = (
    ("mean, from … to …", "over the seeds: the mean, the least and the largest"),
    (
        "95 % interval",
        f"paired bootstrap with {RESAMPLES:,} draws of test rows and, where both methods have several seeds in common, "
        f"of seeds; the middle {share(LEVEL)} of the mean differences",
    ),
    ("within the noise", "the interval of the difference from the best holds 0"),
    (
        "overfits",
        f"with every seed the validation loss ends more than {share(OVERFITTING)} above its least, which came before",
    ),
    (
        "still falling",
        f"with every seed the validation loss is least at the end, and fell by more than {share(FALLING)} since three "
        "quarters of the steps, give or take a tenth of them",
    ),
    (
        "slower",
        f"with every seed a written token takes more than {share(SLOWER)} longer than with the bare base, and by more "
        "than the untrained base's own figures are off",
    ),
    ("forgets", f"the loss on neutral text rises by more than {share(FORGOTTEN)}"),
    ("another language", f"the share of such answers rises by more than {share(OTHER_LANGUAGE)}"),
    ("longer, shorter", f"the mean length of an answer changes by more than a factor of {LENGTH:g}"),
    ("Pareto front", "the methods that no other beats in quality without costing more"),
)
"""What the words of the reading mean, beside those of the tables' columns."""


@final
@dataclass(frozen=True, slots=True)
class Section:
    """What there is to say of one base."""

    name: str
    """Its name in links."""

    standing: Standing
    sentences: list[Sentence]
    highlights: list[Highlight]
    tables: list[tuple[Table, list[Line]]]
    """The tables with figures."""

    asked: list[Asked]

    @property
    def shown(self) -> list[Table]:
        """The tables without their lines."""
        return [table for table, _ in self.tables]


@final
@dataclass(frozen=True, slots=True)
class Report:
    """What there is to say of a comparison."""

    comparison: Comparison
    title: str
    summary: str
    sections: list[Section]
    across: list[Sentence]
    searches: list[tuple[str, list[Search]]]
    """By base."""

    uses: list[Use]
    facts: list[tuple[str, str]]

    @property
    def search_summary(self) -> str:
        """What the search cost."""
        cost = self.comparison.search_cost
        return (
            f"{cost.trials:,} short trials took {duration(cost.seconds)} and {count(cost.tokens)} tokens. They were"
            " judged on the development split; the test split was not used. Final trials began anew with the choice."
            f"{_of_sharing(self.comparison.trials)}"
        )

    @property
    def repeat(self) -> str:
        """The lines that repeat all of it; the first leads to where the comparison was started, if that is known."""
        start, command = self.comparison.started_from, self.comparison.command
        return command if start is None else f"cd {shlex.quote(start)}\n{command}"

    @property
    def repeated_from(self) -> str:
        """The folder in which these lines hold, in words."""
        known = self.comparison.started_from is not None
        return "of this report" if known else "that the comparison was started from"

    def command(self, trial: Trial) -> str:
        """Return the line that repeats a trial alone."""
        return trusting(trial.command, self.comparison.trust_remote_code)

    @property
    def meanings(self) -> tuple[tuple[str, str], ...]:
        """What the words of the reading mean."""
        least = self.comparison.recipe.get("load_best_model_at_end", True)
        kept = "that of the least validation loss" if least else "that of the last step, whatever the validation loss"
        return (*MEANINGS, ("adapter", f"what is kept and measured of a training: {kept}"))

    @property
    def recipe(self) -> str:
        """What was asked for, as YAML."""
        plain = json.loads(json.dumps(self.comparison.recipe, default=str))
        return str(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)).strip()


def _of_sharing(trials: Sequence[Trial]) -> str:
    """Return what is to be said of trials that shared a pass, behind a blank; nothing where none did."""
    sharing = sharing_of(trials)
    if sharing is None:
        return ""
    said = (
        f" {sharing.trials:,} of the short trials shared {sharing.passes:,} pass{'' if sharing.passes == 1 else 'es'}"
        f" over their base, up to {sharing.most} at a time; the time of each is its part by tokens. Final trials"
        " trained alone, so their time, speed and memory are their own."
    )
    if sharing.alone is None:
        return said
    saved = sharing.alone - sharing.seconds
    return (
        f"{said} At the speed of the final trials, training one after another would have taken about"
        f" {duration(sharing.alone)} in place of {duration(sharing.seconds)}: sharing"
        f" {'saved' if saved >= 0 else 'cost'} {duration(abs(saved))}."
    )


def report_of(comparison: Comparison) -> Report:
    """Return what there is to say of a comparison."""
    standings = standings_of(contenders_of(comparison))
    contenders = [contender for standing in standings for contender in standing.contenders]
    sections = [_section(f"base-{number}", standing) for number, standing in enumerate(standings, 1)]
    searches = searches_of(contenders)
    bases = dict.fromkeys(search.contender.base for search in searches)
    return Report(
        comparison=comparison,
        title=_title(comparison),
        summary=_summary(comparison),
        sections=sections,
        across=reading_across(standings),
        searches=[(base, [search for search in searches if search.contender.base == base]) for base in bases],
        uses=[
            use
            for standing in standings
            for use in uses_of(standing, comparison.recipe, trust_remote_code=comparison.trust_remote_code)
        ],
        facts=_facts(comparison),
    )


def _section(name: str, standing: Standing) -> Section:
    tables = [(table, lines) for table in TABLES if (lines := lines_of(table, standing))]
    # Contenders that have no figure at all still belong in a table, with the reason.
    if not tables:
        tables = [(TABLES[0], [Line(contender, ()) for contender in standing.contenders])]
    asked = answers_of(standing.contenders)
    return Section(name, standing, reading_of(standing), highlights_of(standing), tables, asked)


def _title(comparison: Comparison) -> str:
    methods = len({trial.method for trial in comparison.trials})
    bases = list(dict.fromkeys(trial.base for trial in comparison.trials))
    where = f" on {bases[0]}" if len(bases) == 1 else f" on {len(bases)} bases" if bases else ""
    return f"{methods} method{'' if methods == 1 else 's'} compared{where}"


def _summary(comparison: Comparison) -> str:
    finals = [trial for trial in comparison.trials if trial.stage == "final"]
    seeds = {trial.seed for trial in finals}
    budgets = list(dict.fromkeys(amount(trial.budget) for trial in finals))
    rows = {len(trial.scores) for trial in comparison.trials if trial.scores}
    parts = [f"{len(comparison.trials):,} trials"]
    if seeds:
        parts.append(f"{len(seeds)} seed{'' if len(seeds) == 1 else 's'}")
    if budgets:
        parts.append(f"{' or '.join(budgets)} each")
    if rows:
        parts.append(f"{' or '.join(f'{n:,}' for n in sorted(rows))} test rows")
    elsewhere = (
        " Trials of earlier calls ran on another machine, or with other packages or threads: their times differ."
    )
    moved = elsewhere if comparison.earlier_machines else ""
    return f"{', '.join(parts)}. Begun {moment(comparison.created)}.{moved}"


def _facts(comparison: Comparison) -> list[tuple[str, str]]:
    finished = "not yet" if comparison.finished is None else moment(comparison.finished)
    facts = [("begun", moment(comparison.created)), ("finished", finished), ("petune", comparison.petune_version)]
    facts += _of_machine(comparison.machine)
    for earlier in comparison.earlier_machines:
        facts += [(f"{name}, earlier", value) for name, value in _of_machine(earlier)]
    facts += [(f"SHA-256 of {path}", digest) for path, digest in comparison.data.items()]
    return facts


def _of_machine(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = []
    for name, value in found.items():
        in_bytes = name.endswith("_bytes") and isinstance(value, int)
        facts.append((name.removesuffix("_bytes").replace("_", " "), size(value) if in_bytes else str(value)))
    return facts
