"""What the figures say of use: slower answers, forgotten skills, and what did not run at all."""

from collections.abc import Callable, Iterator

from petune.comparison.record import Forgetting, Trial
from petune.comparison.reporting.contenders import Contender
from petune.comparison.reporting.quantities import number, share
from petune.comparison.reporting.sentences import Sentence, agreeing, listed
from petune.comparison.reporting.standing import Standing

SLOWER = 0.05
"""Added time of a written token, as a share of the bare base's, from which it is said, if the machine is as steady."""

FORGOTTEN = 0.02
"""Rise of the loss on neutral text, as a share of what it was, from which it is said."""

OTHER_LANGUAGE = 0.05
"""Rise of the share of answers in another language from which it is said."""

LENGTH = 1.5
"""Factor on the length of the answers, or on its inverse, from which it is said."""

_ENDINGS = {
    "failed": ("failed", "failed"),
    "out_of_memory": ("ran out of memory", "ran out of memory"),
    "refused": ("was not started", "were not started"),
}
"""How a trial ended, of one method and of several."""


def use_sentences(standing: Standing) -> Iterator[Sentence]:
    """Yield what is to be said of using what was trained on one base."""
    trained = [contender for contender in standing.contenders if contender.done and not contender.untrained]
    yield from _latency(trained, [contender for contender in standing.contenders if contender.untrained])
    yield from _neutral_text(trained)
    for contender in trained:
        yield from _answers(contender)
    for contender in standing.contenders:
        yield from _problems(contender)


def _latency(trained: list[Contender], floors: list[Contender]) -> Iterator[Sentence]:
    """Say who writes more slowly, with every seed and by more than the untrained base's own figures are off."""
    off = {floor: max(abs(ratio - 1) for ratio in ratios) for floor in floors if (ratios := floor.figures(_latency_of))}
    noise = max(off.values(), default=0.0)
    threshold = max(SLOWER, noise)
    rows = tuple(floor for floor in off if off[floor] == noise) if noise > SLOWER else ()
    beyond = f"; the untrained base itself is measured {share(noise)} off" if rows else ""
    medians = {c: v for c in trained if (v := c.median(_latency_of)) is not None}
    slower = [c for c in medians if min(c.figures(_latency_of)) > 1 + threshold]
    slower.sort(key=lambda c: -medians[c])
    if slower:
        slowed = listed(f"{c.label} by {share(medians[c] - 1)}" for c in slower)
        yield Sentence(f"Writing is slower than with the bare base: {slowed}{beyond}.", (*slower, *rows), "cost")
    elif medians:
        text = f"No method slows writing by more than {share(threshold)} with every seed{beyond}."
        yield Sentence(text, (*medians, *rows), "cost")


def _latency_of(trial: Trial) -> float | None:
    return trial.generation_latency_ratio


def _neutral_text(trained: list[Contender]) -> Iterator[Sentence]:
    # With tokens of its own a method reads the text in other pieces, so a loss per token is no rise over the base's.
    rises = {c: v for c in trained if not c.vocabulary and (v := c.mean(_rise)) is not None}
    if not rises:
        return
    order = sorted(rises, key=lambda contender: rises[contender])
    most = order[-1]
    if rises[most] <= FORGOTTEN:
        yield Sentence(
            f"No method's loss on neutral text rises by more than {share(FORGOTTEN)}.", tuple(order), "forgetting"
        )
        return
    text = f"{most.label} {agreeing([most], 'forgets', 'forget')} most: its loss on neutral text goes {_course(most)}"
    if len(order) > 1:
        text += f"; {order[0].label} least, {_course(order[0])}"
    yield Sentence(f"{text}.", tuple(dict.fromkeys((most, order[0]))), "forgetting")


def _rise(trial: Trial) -> float | None:
    found = trial.forgetting
    return None if found is None else found.neutral_loss_after / found.neutral_loss_before - 1


def _course(contender: Contender) -> str:
    before = _forgetting(contender, lambda found: found.neutral_loss_before)
    after = _forgetting(contender, lambda found: found.neutral_loss_after)
    assert before is not None
    assert after is not None
    return f"from {number(before)} to {number(after)}"


def _answers(contender: Contender) -> Iterator[Sentence]:
    """Say whether answers change their language or their length."""
    before = _forgetting(contender, lambda found: found.other_language_share_before)
    after = _forgetting(contender, lambda found: found.other_language_share_after)
    if before is not None and after is not None and after - before > OTHER_LANGUAGE:
        verb = agreeing([contender], "answers", "answer")
        text = f"{contender.label} {verb} {share(after)} of the prompts in another language"
        yield Sentence(f"{text}; the bare base {share(before)}.", (contender,), "forgetting")
    before = _forgetting(contender, lambda found: found.answer_tokens_before)
    after = _forgetting(contender, lambda found: found.answer_tokens_after)
    if before and after and not 1 / LENGTH <= after / before <= LENGTH:
        word = "longer" if after > before else "shorter"
        text = f"Answers of {contender.label} are {word}: {after:,.1f} tokens instead of {before:,.1f}."
        yield Sentence(text, (contender,), "forgetting")


def _forgetting(contender: Contender, value: Callable[[Forgetting], float | None]) -> float | None:
    return contender.mean(lambda trial: None if trial.forgetting is None else value(trial.forgetting))


def _problems(contender: Contender) -> Iterator[Sentence]:
    if not contender.trials and not contender.problems:
        yield Sentence(f"Not reached yet: {contender.label}.", (contender,))
        return
    for status, endings in _ENDINGS.items():
        trials = [trial for trial in contender.problems if trial.status == status]
        if not trials:
            continue
        of = contender.trials or contender.search
        part = "" if len(trials) == len(of) else f" in {len(trials)} of {len(of)} trials"
        ending = agreeing([contender], *endings)
        yield Sentence(f"{contender.label} {ending}{part}: {_reason(trials[0])}.", (contender,))


def _reason(trial: Trial) -> str:
    return (trial.reason or "").strip().rstrip(".")
