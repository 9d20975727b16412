"""The page of the documentation that the records make: claims, what the figures say of each, and the figures."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from experiment.claims import CLAIMS, Claim
from experiment.finding import Finding
from experiment.parts import PARTS, Scale, parts_of
from experiment.records import Facts, Records
from petune.comparison.record import Comparison
from petune.comparison.reporting.contenders import Contender, Spread, contenders_of, value_text

PAGE = Path(__file__).parents[2] / "docs" / "experiment.md"

_INTRODUCTION = Path(__file__).parent / "introduction.md"

_UNTOLD = ("new_tokens", "module_learning_rates", "templates", "verbalizers", "prefix_init_text")
"""Settings that are told in other words, or that all have."""

_TITLES: dict[Scale, str] = {"full": "The full edition", "small": "The small edition"}


def page(editions: Mapping[Scale, Records]) -> str:
    """Return the page.

    Args:
        editions: records by edition; those without any are left out, but for one.
    """
    run = {name: records for name, records in editions.items() if records.parts}
    shown = run or dict(list(editions.items())[:1])
    sections = [
        _INTRODUCTION.read_text(encoding="utf-8"),
        *(_edition(name, records) for name, records in shown.items()),
    ]
    return "\n".join(sections).rstrip() + "\n"


def _edition(scale: Scale, records: Records) -> str:
    title = _TITLES[scale]
    findings = [(claim, claim.test(records)) for claim in CLAIMS.values()]
    lines = [f"## {title}", "", *_circumstances(scale, records), ""]
    lines += ["| claim | from | here |", "|---|---|---|"]
    lines += [f"| {claim.says} | {claim.source} | {finding.told} |" for claim, finding in findings]
    lines += ["", f"### The figures of each claim, {title.lower()}", ""] if records.parts else [""]
    for claim, finding in findings:
        lines += [*_evidence(claim, finding), ""] if finding.evidence else []
    if records.parts:
        lines += [f"### Every method, {title.lower()}", ""]
    for part in (name for name in PARTS if name in records.parts):
        lines += [*_table(part, records.parts[part]), ""]
        lines += [*_answers(records.parts[part])]
    return "\n".join(lines)


def _circumstances(scale: Scale, records: Records) -> Iterator[str]:
    """Yield what was run, where, and for how long."""
    missing = [PARTS[part] for part in parts_of(scale) if part not in records.parts]
    if records.parts:
        trials = [trial for comparison in records.parts.values() for trial in comparison.trials]
        machine = next(iter(records.parts.values())).machine
        seconds = sum(trial.wall_seconds or 0.0 for trial in trials)
        yield (
            f"{len(trials)} trials in {seconds / 60:.0f} minutes on {machine.get('processor', 'a processor')},"
            f" {machine.get('cores', '?')} cores, {machine.get('threads', '?')} threads."
        )
    yield "Not run yet: " + "; ".join(missing) + "." if missing else "Every part was run."
    if records.facts is not None and "dialogues_chinese" in records.parts:
        yield from ("", _vocabulary(records.facts))


def _vocabulary(facts: Facts) -> str:
    return (
        f"Vocabulary: {facts.new_tokens} new tokens ({', '.join(facts.first_tokens[:6])}, ...). Chinese test dialogues"
        f" take {facts.tokens_per_character:.2f} tokens for each character before,"
        f" {facts.tokens_per_character_extended:.2f} after."
    )


def _evidence(claim: Claim, finding: Finding) -> Iterator[str]:
    yield from (f"**{claim.says}**: {finding.told}.", "")
    for own in finding.evidence:
        yield f"- {own.where}: {own.figures}; {_seeds(own.seeds)}; {own.status}"


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"


def _table(part: str, comparison: Comparison) -> Iterator[str]:
    """Yield the methods of a part with their figures."""
    shown = [contender for contender in contenders_of(comparison) if contender.trials]
    metric = next((t.metric for c in shown for t in c.done), "quality").replace("_", " ")
    others = [name for name in ("rouge_l",) if any(name in t.test for c in shown for t in c.done)]
    names = [name.replace("_", "-").replace("rouge-l", "ROUGE-L") for name in others]
    heads = ["", metric, *names, "validation loss", "learned", "seconds", "seeds"]
    yield from (f"{PARTS[part]}:", "", f"| {' | '.join(heads)} |", "|" + "---|" * len(heads))
    for contender in shown:
        if not contender.done:
            problem = contender.problems[0]
            told = _cell(f"{problem.status.replace('_', ' ')}: {problem.reason}")
            yield f"| {_name(contender)} | {told} |" + " |" * (len(heads) - 2)
            continue
        cells = [
            _name(contender),
            _figure(contender.quality),
            *(_figure(contender.spread(lambda trial, name=name: trial.test.get(name))) for name in others),
            _figure(contender.spread(lambda trial: trial.best_eval_loss)),
            f"{contender.mean(lambda trial: trial.trainable_parameters) or 0:,.0f}",
            f"{contender.mean(lambda trial: trial.seconds) or 0:.0f}",
            str(len(contender.done)),
        ]
        yield f"| {' | '.join(cells)} |"


def _answers(comparison: Comparison) -> Iterator[str]:
    """Yield what each method answered to one row that asks for a text; nothing where labels are compared."""
    shown = [contender for contender in contenders_of(comparison) if contender.examples]
    if not shown or not any("rouge_l" in trial.test for trial in shown[0].done):
        return
    first = shown[0].examples[0]
    yield from (
        f"Asked: {_quoted(first.prompt)} Reference: {_quoted(first.reference or '')}",
        "",
        "| | answer |",
        "|---|---|",
    )
    for contender in shown:
        yield f"| {_name(contender)} | {_quoted(contender.examples[0].answer)} |"
    yield ""


def _quoted(text: str) -> str:
    """Return a text of others, which is no Markdown, as code in one line."""
    told = " ".join(text.split()).replace("`", "'").replace("|", "/")
    return f"`{told or ' '}`"


def _name(contender: Contender) -> str:
    """Return the method with what sets it apart, in few words."""
    settings = contender.settings
    told = [
        "hard prompts" if contender.method == "hard_prompts" and settings else None,
        "extended vocabulary" if settings.get("new_tokens") else None,
        *(f"{key} {value_text(value)}" for key, value in settings.items() if key not in _UNTOLD),
    ]
    name = "untrained" if contender.untrained else contender.method
    return _cell(", ".join([name, *filter(None, told)]))


def _figure(spread: Spread | None) -> str:
    if spread is None:
        return ""
    around = "" if spread.count == 1 else f" ({spread.low:.3f} to {spread.high:.3f})"
    return f"{spread.mean:.3f}{around}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
