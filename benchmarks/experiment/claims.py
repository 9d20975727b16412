"""The published claims, each as a test of the records.

A figure is what a claim wants above 0, with its interval over test rows and seeds. Above 0 with all of the interval the
claim is reproduced, below not reproduced, else not decided. Scores are turned such that more is better.
"""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiment.counts import per_character
from experiment.finding import ENOUGH_SEEDS, Evidence, Finding, Status, advantage, weighed
from experiment.parts import PARTS
from experiment.records import Records, paired
from experiment.resampling import interval
from petune.comparison.record import Trial

NEAR = 0.9
"""Share of the gain over the untrained base that counts as near."""

TEXT_PARTS = ("dialogues_chinese", "dialogues_english", "reviews_chinese", "reviews_english")
LENGTHS = (2, 10, 40, 120)
FEW, MANY = ["q_proj", "v_proj"], "all-linear"


def lora_near_full(records: Records) -> Finding:
    """LoRA has nine tenths of what full fine-tuning gains over the untrained base, or more."""
    found = []
    for part in TEXT_PARTS:
        tables = paired(records.trials(part, "lora"), records.trials(part, "full"), records.floor(part))
        if tables is None:
            continue
        if interval(lambda lora, full, floor: full - floor, tables).low <= 0:
            found.append(_undecided(part, "full fine-tuning is no better than the untrained base", len(tables[0])))
            continue
        says = f"LoRA less {NEAR:.0%} of full fine-tuning, both above the untrained base:"
        found.append(weighed(PARTS[part], says, lambda lora, full, floor: lora - floor - NEAR * (full - floor), tables))
    return Finding(tuple(found))


def full_overfits_first(records: Records) -> Finding:
    """The least validation loss of full fine-tuning comes at an earlier step than another's, and rises from there."""
    part = "overfitting"
    full = {trial.seed: trial for trial in records.trials(part, "full")}
    found = []
    for method in ("lora", "prefix_tuning", "prompt_tuning"):
        pairs = [(full[t.seed], t) for t in records.trials(part, method) if t.seed in full]
        steps = [(a.best_step, b.best_step) for a, b in pairs if a.best_step is not None and b.best_step is not None]
        if not steps:
            continue
        first = [a < b and _rise(trial) > 0 for (a, b), (trial, _) in zip(steps, pairs, strict=True)]
        risen = [statistics.fmean(_rise(pair[i]) for pair in pairs) for i in (0, 1)]
        figures = (
            f"least loss at step {statistics.fmean(a for a, _ in steps):.0f} with full fine-tuning, at"
            f" {statistics.fmean(b for _, b in steps):.0f} with {method}; risen since by"
            f" {risen[0]:.3f} and {risen[1]:.3f}"
        )
        found.append(Evidence(f"{PARTS[part]}, {method}", _by_seeds(first), figures, len(first)))
    return Finding(tuple(found))


def weaker_on_a_foreign_language(records: Records) -> Finding:
    """Prompt and prefix tuning have a smaller share of LoRA's gain on Chinese than on English."""
    found = []
    for kind in ("dialogues", "reviews"):
        for method in ("prompt_tuning", "prefix_tuning"):
            groups = [
                paired(records.trials(part, method), records.trials(part, "lora"), records.floor(part))
                for part in (f"{kind}_chinese", f"{kind}_english")
            ]
            chinese, english = groups
            if chinese is None or english is None:
                continue
            where = f"{kind}, {method}"
            if any(interval(lambda own, lora, floor: lora - floor, g).low <= 0 for g in (chinese, english)):
                found.append(_undecided(where, "LoRA gains nothing in one of the languages", len(chinese[0])))
                continue
            says = "share of LoRA's gain, English less Chinese:"
            found.append(weighed(where, says, _share_lost, chinese, english))
    return Finding(tuple(found))


def longer_helps_then_hurts(records: Records) -> Finding:
    """A prefix of middle length is better than the shortest and than the longest."""
    part = "prefix_lengths"
    tables = paired(*(records.trials(part, "prefix_tuning", num_virtual_tokens=length) for length in LENGTHS))
    if tables is None:
        return Finding()
    means = ", ".join(f"{abs(table.mean()):.3f} with {n}" for n, table in zip(LENGTHS, tables, strict=True))
    helps = weighed(
        PARTS[part],
        f"loss {means}; the better of the middle ones, against the shortest:",
        lambda short, *rest: np.maximum(rest[0], rest[1]) - short,
        tables,
    )
    hurts = weighed(
        PARTS[part],
        "against the longest:",
        lambda short, *rest: np.maximum(rest[0], rest[1]) - rest[2],
        tables,
    )
    return Finding((_all_of([helps, hurts]),))


def real_words_help_with_few_rows(records: Records) -> Finding:
    """With few rows, a prefix that starts as real words is better than one that starts random."""
    part = "few_rows"
    random = records.trials(part, "prefix_tuning", prefix_init="random")
    vocabulary = records.trials(part, "prefix_tuning", prefix_init="vocabulary")
    text = records.trials(part, "prefix_tuning", prefix_init="text")
    return Finding(
        (
            *advantage(f"{PARTS[part]}, sampled words", "words less random:", vocabulary, random),
            *advantage(f"{PARTS[part]}, words of the task", "words less random:", text, random),
        )
    )


def infix_slightly_worse(records: Records) -> Finding:
    """A prefix is better than an infix."""
    prefix, infix = (records.trials("infix", "prefix_tuning", placement=name) for name in ("prefix", "infix"))
    return Finding(tuple(advantage(PARTS["infix"], "prefix less infix:", prefix, infix)))


def v2_better_on_tagging(records: Records) -> Finding:
    """P-tuning v2 tags better than P-tuning v1."""
    part = "encoder_entities"
    first, second = records.trials(part, "p_tuning"), records.trials(part, "p_tuning_v2")
    return Finding(tuple(advantage(PARTS[part], "P-tuning v2 less v1:", second, first)))


def small_rank_suffices(records: Records) -> Finding:
    """A small rank has nine tenths of what rank 32 gains over the untrained base, or more."""
    part = "ranks"
    found = []
    for rank in (1, 8):
        tables = paired(records.trials(part, "lora", r=rank), records.trials(part, "lora", r=32), records.floor(part))
        if tables is None:
            continue
        where = f"{PARTS[part]}, rank {rank}"
        if interval(lambda small, large, floor: large - floor, tables).low <= 0:
            found.append(_undecided(where, "rank 32 is no better than the untrained base", len(tables[0])))
            continue
        says = f"rank {rank} less {NEAR:.0%} of rank 32, both above the untrained base:"
        found.append(weighed(where, says, lambda small, large, floor: small - floor - NEAR * (large - floor), tables))
    return Finding(tuple(found))


def more_modules_beat_fewer(records: Records) -> Finding:
    """Of as many numbers, those in all linears learn more than those in two projections."""
    few, some, many = (records.trials("modules", "lora", target_modules=names) for names in (FEW, "attention", MANY))
    return Finding(
        (
            *advantage(f"{PARTS['modules']}, all", "all linears at rank 3 less q, v at rank 16:", many, few),
            *advantage(f"{PARTS['modules']}, attention", "q, k, v, o at rank 8 less q, v at rank 16:", some, few),
        )
    )


def extended_vocabulary_helps(records: Records) -> Finding:
    """With new tokens a character of a Chinese answer costs less loss, counted by character because tokens differ."""
    part, facts = "dialogues_chinese", records.facts
    if facts is None or part not in records.parts:
        return Finding()
    found = []
    for method in dict.fromkeys(trial.method for trial in records.parts[part].trials):
        plain, extended = records.trials(part, method), records.trials(part, method, new_tokens=True)
        tables = paired(
            _by_character(plain, facts.label_tokens, facts.characters),
            _by_character(extended, facts.label_tokens_extended, facts.characters),
        )
        if tables is not None and extended:
            says = "nats saved on each character:"
            found.append(weighed(f"{PARTS[part]}, {method}", says, lambda own, new: new - own, tables))
    return Finding(tuple(found))


def llama_adapter_in_between(records: Records) -> Finding:
    """LLaMA-Adapter is better than prompt and prefix tuning, and LoRA better than it."""
    found = []
    for part in TEXT_PARTS:
        between = records.trials(part, "llama_adapter")
        pairs = (
            ("LoRA less LLaMA-Adapter:", records.trials(part, "lora"), between),
            ("LLaMA-Adapter less prompt tuning:", between, records.trials(part, "prompt_tuning")),
            ("LLaMA-Adapter less prefix tuning:", between, records.trials(part, "prefix_tuning")),
        )
        pieces = [own for says, better, worse in pairs for own in advantage(PARTS[part], says, better, worse)]
        if len(pieces) == len(pairs):
            found.append(_all_of(pieces))
    return Finding(tuple(found))


def _share_lost(*means: Any) -> Any:
    """Return the share of LoRA's gain that a method has, English less Chinese."""
    chinese, english = means[:3], means[3:]
    return _share(*english) - _share(*chinese)


def _share(own: Any, lora: Any, floor: Any) -> Any:
    return (own - floor) / (lora - floor)


def _rise(trial: Trial) -> float:
    """Return how far the validation loss has risen from its least."""
    return (trial.eval_loss or 0.0) - (trial.best_eval_loss or 0.0)


def _by_seeds(holds: list[bool]) -> Status:
    """Return what seeds say that all agree, where there are enough of them."""
    if len(holds) < ENOUGH_SEEDS or any(holds) != all(holds):
        return "not decided"
    return "reproduced" if all(holds) else "not reproduced"


def _all_of(halves: list[Evidence]) -> Evidence:
    """Return the evidence of the pieces of a claim in one place, which holds where all of them do."""
    states = {half.status for half in halves}
    status: Status = "not decided"
    if "not reproduced" in states:
        status = "not reproduced"
    elif states == {"reproduced"}:
        status = "reproduced"
    seeds = min(half.seeds for half in halves)
    return Evidence(halves[0].where, status, ", ".join(half.figures for half in halves), seeds)


def _undecided(where: str, why: str, seeds: int) -> Evidence:
    return Evidence(PARTS.get(where, where), "not decided", why, seeds)


def _by_character(trials: list[Trial], tokens: list[int], characters: list[int]) -> list[Trial]:
    return [
        trial.model_copy(update={"scores": per_character(trial.scores, tokens, characters)})
        for trial in trials
        if len(trial.scores) == len(tokens)
    ]


@dataclass(frozen=True, slots=True)
class Claim:
    """A published claim and its test."""

    says: str
    source: str
    test: Callable[[Records], Finding]


LORA, PREFIX, V2 = "Hu et al. 2021", "Li and Liang 2021", "Liu et al. 2022"
TABLE = "practice with LLaMA-7B and Chinese data"

CLAIMS: Mapping[str, Claim] = {
    claim.test.__name__: claim
    for claim in (
        Claim("LoRA comes near full fine-tuning", LORA, lora_near_full),
        Claim("Full fine-tuning overfits first", TABLE, full_overfits_first),
        Claim("Prompt and prefix tuning are weaker on a foreign language", TABLE, weaker_on_a_foreign_language),
        Claim("Longer prefixes first help, then hurt", PREFIX, longer_helps_then_hurts),
        Claim("A start from real words helps with few rows", PREFIX, real_words_help_with_few_rows),
        Claim("An infix is slightly worse than a prefix", PREFIX, infix_slightly_worse),
        Claim("P-tuning v2 is better than P-tuning on tagging", V2, v2_better_on_tagging),
        Claim("A small rank suffices", LORA, small_rank_suffices),
        Claim("More modules beat fewer with as many numbers", LORA, more_modules_beat_fewer),
        Claim("An extended vocabulary helps", TABLE, extended_vocabulary_helps),
        Claim("LLaMA-Adapter is below LoRA, above prompt and prefix tuning", TABLE, llama_adapter_in_between),
    )
}
"""The claims in the order in which they are told, by name of their tests."""
