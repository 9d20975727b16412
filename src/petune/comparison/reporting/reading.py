"""A comparison in plain sentences, made from its figures alone; each sentence names the rows it rests on."""

from collections.abc import Sequence

from petune.comparison.reporting.contenders import Contender, title_of
from petune.comparison.reporting.reading_quality import quality_sentences
from petune.comparison.reporting.reading_training import training_sentences
from petune.comparison.reporting.reading_use import use_sentences
from petune.comparison.reporting.sentences import Sentence, listed
from petune.comparison.reporting.standing import Standing


def reading_of(standing: Standing) -> list[Sentence]:
    """Return what the figures say of the methods on one base."""
    return [*quality_sentences(standing), *training_sentences(standing), *use_sentences(standing)]


def reading_across(standings: Sequence[Standing]) -> list[Sentence]:
    """Return what the figures say of several bases together: which methods are at the top of each."""
    if len(standings) < 2 or any(standing.best is None for standing in standings):
        return []
    tops = [[c for c in standing.ranked if c == standing.best or c in standing.ties] for standing in standings]
    by_entry = [{(c.method, c.entry): c for c in top} for top in tops]
    everywhere = [entry for entry in by_entry[0] if all(entry in others for others in by_entry[1:])]
    if not everywhere:
        # A method may be as good without anyone knowing it.
        known = "known to be " if any(standing.unknown or standing.unranked for standing in standings) else ""
        text = f"No method is {known}best, or within the noise of the best, on every base."
        return [Sentence(text, tuple(c for top in tops for c in top))]
    verb = "is" if len(everywhere) == 1 else "are"
    rows = tuple(of_base[entry] for of_base in by_entry for entry in everywhere)
    names = dict.fromkeys(_name_of([of_base[entry] for of_base in by_entry]) for entry in everywhere)
    text = f"{listed(names)} {verb} best, or within the noise of the best, on each of the {len(standings)} bases."
    return [Sentence(text, rows)]


def _name_of(contenders: Sequence[Contender]) -> str:
    """Return one name for the same entry on several bases, whose searches may have chosen different settings."""
    same = len({contender.label for contender in contenders}) == 1
    return contenders[0].label if same else title_of(contenders[0].method)
