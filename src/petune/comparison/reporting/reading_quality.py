"""What the figures say of quality: the best, those within its noise, those behind, and what training was worth."""

from collections.abc import Iterator

from petune.comparison.record import Trial
from petune.comparison.reporting.contenders import Contender
from petune.comparison.reporting.intervals import difference
from petune.comparison.reporting.quantities import duration, number, share, size
from petune.comparison.reporting.sentences import Sentence, agreeing, labels, listed
from petune.comparison.reporting.standing import Standing


def quality_sentences(standing: Standing) -> Iterator[Sentence]:
    """Yield what is to be said of the quality on one base."""
    best = standing.best
    if best is None:
        yield Sentence("No trial ended with a figure, so nothing can be compared.", standing.contenders)
        return
    yield _lead(standing, best)
    yield from _noise(standing, best)
    if max(len(contender.done) for contender in standing.ranked) == 1 and standing.differences:
        text = "Every method ran with one seed: the intervals tell of the test rows, not of how much a training varies."
        yield Sentence(text, standing.ranked)
    yield from _smallest(standing, best)
    yield from _cheapest(standing)
    yield from _floor(standing, best)


def _lead(standing: Standing, best: Contender) -> Sentence:
    spread = best.quality
    assert spread is not None
    over = "with one seed"
    if spread.count > 1 and number(spread.low) == number(spread.high):
        over = f"with each of {spread.count} seeds"
    elif spread.count > 1:
        over = f"from {number(spread.low)} to {number(spread.high)} over {spread.count} seeds"
    return Sentence(
        f"{best.label} {agreeing([best], 'is', 'are')} best: {standing.metric} {number(spread.mean)}, {over}.", (best,)
    )


def _noise(standing: Standing, best: Contender) -> Iterator[Sentence]:
    ties, behind, ahead, unknown = standing.ties, standing.behind, standing.ahead, standing.unknown
    of_rows = "" if standing.scores_are_the_metric else ", by the rows' mean score"
    if ties:
        within = f"{labels(ties)} {agreeing(ties, 'is', 'are')} within the noise of {best.label}"
        text = f"{within}: the test rows and the seeds do not tell them apart."
        yield Sentence(text, (best, *ties))
    elif behind and not ahead and not unknown:
        yield Sentence(f"No other method is within the noise of {best.label}.", (best, *behind))
    if behind:
        distances = listed(f"{c.label} by {number(abs(standing.differences[c.number].mean))}" for c in behind)
        yield Sentence(f"Behind {best.label} by more than the noise{of_rows}: {distances}.", (best, *behind))
    if ahead:
        verb = agreeing(ahead, "is", "are")
        text = f"By the rows' mean score, and by more than the noise, {labels(ahead)} {verb} ahead of {best.label}."
        yield Sentence(text, (best, *ahead))
    if unknown:
        text = f"How sure the distance of {labels(unknown)} is cannot be said: no scores of the same rows and seeds."
        yield Sentence(text, (best, *unknown))


def _smallest(standing: Standing, best: Contender) -> Iterator[Sentence]:
    smallest, stored = standing.least(_stored), best.mean(_stored)
    if smallest is None or stored is None or best.untrained:
        return
    if smallest == best:
        also = f"{best.label} {agreeing([best], 'is', 'are')} also the smallest"
        text = f"Of the best and those within its noise, {also}: {size(stored)} a task."
        yield Sentence(text, standing.front)
        return
    less = smallest.mean(_stored)
    assert less is not None
    part = f"{share(less / stored)} of the storage" if less else "no storage at all"
    text = (
        f"{smallest.label} {agreeing([smallest], 'is', 'are')} within the noise of {best.label} at {part}"
        f" ({size(less)} a task against {size(stored)})."
    )
    yield Sentence(text, (smallest, best))


def _stored(trial: Trial) -> float | None:
    return trial.bytes_stored


def _cheapest(standing: Standing) -> Iterator[Sentence]:
    """Say which of the best and those within its noise needs the least memory and time, where the seeds agree."""
    found: dict[Contender, list[str]] = {}
    for name, value, write in (("memory", _memory, size), ("time", _time, duration)):
        least = standing.clearly_least(value)
        figure = None if least is None else least.mean(value)
        if least is not None and figure is not None:
            found.setdefault(least, []).append(f"the least {name} ({write(figure)})")
    if found:
        needs = listed(f"{c.label} {agreeing([c], 'needs', 'need')} {listed(least)}" for c, least in found.items())
        yield Sentence(f"Of the best and those within its noise, {needs}.", standing.front, "cost")


def _memory(trial: Trial) -> float | None:
    return trial.peak_memory_bytes


def _time(trial: Trial) -> float | None:
    return trial.seconds


def _floor(standing: Standing, best: Contender) -> Iterator[Sentence]:
    """Set the trained methods against the best of the untrained base."""
    floor = next((contender for contender in standing.ranked if contender.untrained), None)
    if floor is None:
        return
    if floor == best:
        alike = " with its vocabulary" if standing.unranked else ""
        yield Sentence(f"No training{alike} did better than the untrained base.", standing.ranked)
    elif floor in standing.ties:
        within = f"{floor.label} {agreeing([floor], 'is', 'are')} within the noise of {best.label}"
        yield Sentence(f"No training is shown to help: {within}.", (best, floor))
    elif floor in standing.behind:
        assert best.quality is not None
        assert floor.quality is not None
        gain = number(abs(best.quality.mean - floor.quality.mean))
        yield Sentence(
            f"Training is worth {gain} of {standing.metric}: from {floor.label} to {best.label}.", (floor, best)
        )
    worse = tuple(c for c in standing.ranked if not c.untrained and c != best and _is_worse(c, floor, standing))
    if worse:
        yield Sentence(
            f"{labels(worse)} {agreeing(worse, 'does', 'do')} worse than the untrained base.", (*worse, floor)
        )


def _is_worse(contender: Contender, floor: Contender, standing: Standing) -> bool:
    found = difference(contender, floor)
    return found is not None and not found.within_noise and (found.mean < 0) == standing.higher_is_better
