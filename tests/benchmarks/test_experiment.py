"""The experiment: recipes, vocabulary, what is kept, intervals, each claim's test, and the page."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from experiment import claims, command, counts, page, parts, records, vocabulary
from experiment.claims import CLAIMS
from experiment.finding import Evidence, Finding, Status
from experiment.records import Facts, Records
from experiment.resampling import interval
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import petune
from petune.comparison.recipe import CompareRecipe
from petune.comparison.record import Budget, Comparison, CurvePoint, ExampleAnswer, Trial

ROWS = 40
SEEDS = (1, 2, 3)
NOISE = np.random.default_rng(0).normal(0, 0.02, size=(len(SEEDS), ROWS))


def trial(method: str, seed: int, level: float, *, metric: str = "accuracy", **settings: Any) -> Trial:
    """Return a trial whose scores lie about ``level``; a lower loss for the metric of that name."""
    floor = method == "hard_prompts"
    scores = [level + float(noise) for noise in NOISE[SEEDS.index(seed)]]
    return Trial(
        id=f"{method}-{seed}-{abs(hash(str(settings)))}",
        base="demo",
        method=method,
        settings=settings,
        seed=seed,
        stage="floor" if floor else "final",
        budget=Budget(unit="steps", amount=0 if floor else 10),
        status="done",
        metric=metric,
        higher_is_better=metric != "loss",
        test={metric: float(np.mean(scores))},
        scores=scores,
        command="petune train",
        seconds=1.0,
        wall_seconds=2.0,
        trainable_parameters=10,
    )


def trials(method: str, level: float, **settings: Any) -> list[Trial]:
    return [trial(method, seed, level, **settings) for seed in (SEEDS[:1] if method == "hard_prompts" else SEEDS)]


def comparison(*groups: list[Trial]) -> Comparison:
    return Comparison(
        recipe={},
        command="petune compare",
        created="2026-01-01T00:00:00+00:00",
        machine={"processor": "a processor", "cores": 2, "threads": 2, "system": "a system"},
        petune_version="0",
        data={},
        trials=[own for group in groups for own in group],
    )


def decided(test: Callable[[Records], Finding], **of_parts: Comparison) -> Status:
    return test(Records(of_parts)).status


@pytest.mark.parametrize("scale", parts.SCALES)
def test_every_recipe_of_every_edition_is_one(scale: parts.Scale) -> None:
    assert set(parts.ORDER) == set(parts.PARTS)
    assert set(parts.parts_of(scale)) <= set(parts.PARTS)
    for part in parts.parts_of(scale):
        keys = parts.recipe_of(part, scale)
        recipe = CompareRecipe.parse(keys)
        assert recipe.options.output_dir == f"outputs/experiment/{scale}/{part}"
        assert max(recipe.options.budget, len(recipe.options.seeds)) <= (2 if scale == "smoke" else 12)


@pytest.mark.parametrize("scale", ["full", "small"])
def test_records_are_of_the_recipes(scale: parts.Scale) -> None:
    kept = Records.read(records.RESULTS / scale).parts
    assert set(kept) == set(parts.parts_of(scale))
    for part, comparison in kept.items():
        keys = parts.recipe_of(part, scale)
        del keys["generation_speed"]  # changes nothing of what is kept
        wanted = CompareRecipe.parse(keys).keys()
        asked = {"search_settings": False, **comparison.recipe}  # before there was that key, nothing else was searched
        assert {key: asked.get(key) for key in keys} == {key: wanted[key] for key in keys}, part


def test_the_full_edition_has_every_method_with_and_without_an_extended_vocabulary() -> None:
    entries = parts.recipe_of("dialogues_chinese", "full")["methods"]
    named = [entry if isinstance(entry, str) else entry["method"] for entry in entries]
    methods = ("full", "lora", "llama_adapter", "prompt_tuning", "prefix_tuning", "p_tuning", "p_tuning_v2")
    assert all(named.count(method) == 2 for method in (*methods, "bottleneck", "hard_prompts"))
    assert parts.recipe_of("dialogues_chinese", "full")["seeds"] == [1, 2, 3]


def test_sets_of_modules_have_as_many_numbers() -> None:
    widths = {"q": 576 + 576, "k": 576 + 192, "v": 576 + 192, "o": 576 + 576, "mlp": 3 * (576 + 1536)}
    entries = [entry["settings"] for entry in parts.recipe_of("modules", "full")["methods"] if "settings" in entry]
    sizes = [16 * (widths["q"] + widths["v"]), 8 * sum(widths[n] for n in "qkvo"), 3 * sum(widths.values())]
    assert [entry["r"] for entry in entries] == [16, 8, 3]
    assert [entry["target_modules"] for entry in entries] == [claims.FEW, "attention", claims.MANY]
    assert max(sizes) / min(sizes) < 1.01


def test_tokens_that_save_most_come_first() -> None:
    texts = ["你好你好你好", "你好吗", "abc"]
    length = {"你": 3, "好": 2, "吗": 2, "你好": 5, "好你": 5, "好吗": 4}
    assert vocabulary.worthwhile(texts, lambda text: length[text], 3) == ["你", "你好", "好"]
    assert vocabulary.worthwhile(texts, lambda text: 1, 3) == []
    assert vocabulary.per_character(["你好", "吗"], lambda text: 2 * len(text)) == 2.0


def test_losses_by_character_weigh_rows_by_their_length() -> None:
    rows = counts.per_character([2.0, 1.0], [3, 4], [4, 4])
    assert np.mean(rows) == pytest.approx((2.0 * 3 + 1.0 * 4) / 8)


def test_an_interval_of_paired_scores_is_narrower_than_that_of_each() -> None:
    rows = np.random.default_rng(1).normal(size=(1, 200))
    gap = interval(lambda one, other: one - other, [rows + 0.1, rows])
    alone = interval(lambda one, other: one - other, [rows + 0.1], [rows])
    assert (gap.value, gap.low, gap.high) == pytest.approx((0.1, 0.1, 0.1))
    assert alone.low < 0.1 < alone.high
    assert alone.high - alone.low == pytest.approx(2 * 1.96 * np.sqrt(2 / 200), rel=0.15)
    assert interval(lambda one: one, [np.repeat(rows, 3, axis=0)]).seeds == 3


def test_tables_that_are_not_paired_are_refused() -> None:
    with pytest.raises(ValueError, match="are not paired"):
        interval(lambda one, other: one - other, [np.zeros((2, 4)), np.zeros((2, 5))])


def test_seeds_that_only_one_has_are_left_out_and_the_floor_stands_for_each() -> None:
    tables = records.paired(trials("lora", 0.9)[:2], trials("full", 0.9), trials("hard_prompts", 0.5))
    assert tables is not None
    assert [len(table) for table in tables] == [2, 2, 1]
    assert records.paired(trials("lora", 0.9)[:1], trials("full", 0.9)[1:]) is None
    assert records.paired(trials("lora", 0.9), []) is None
    lost = [trial("lora", 1, float("inf"), metric="loss")]
    assert records.paired(lost, lost) is None


def test_a_seed_without_scores_is_left_out_of_all() -> None:
    whole, broken = trials("full", 0.9), trials("lora", 0.8)
    broken[1] = broken[1].model_copy(update={"scores": []})
    tables = records.paired(broken, whole, trials("hard_prompts", 0.5))
    assert tables is not None
    assert [len(table) for table in tables] == [2, 2, 1]
    assert np.array_equal(tables[1], [whole[0].scores, whole[2].scores])
    assert interval(lambda one, other, floor: one - other, tables).seeds == 2
    assert records.paired(broken[1:2], whole) is None


def test_trials_are_found_by_their_settings() -> None:
    found = Records(
        {
            "ranks": comparison(
                trials("lora", 0.8, r=8), trials("lora", 0.9, r=32), trials("lora", 0.7, r=8, new_tokens="f")
            )
        }
    )
    assert len(found.trials("ranks", "lora")) == 6
    assert len(found.trials("ranks", "lora", r=8)) == 3
    assert len(found.trials("ranks", "lora", new_tokens=True)) == 3
    assert found.trials("modules", "lora") == []


def test_lora_near_full() -> None:
    def measured(lora: float, full: float) -> Comparison:
        return comparison(trials("lora", lora), trials("full", full), trials("hard_prompts", 0.5))

    test = claims.lora_near_full
    assert decided(test, reviews_english=measured(0.88, 0.9)) == "reproduced"
    assert decided(test, reviews_english=measured(0.7, 0.9)) == "not reproduced"
    assert decided(test, reviews_english=measured(0.86, 0.9)) == "not decided"
    assert decided(test, reviews_english=measured(0.9, 0.5)) == "not decided"
    both = {"reviews_english": measured(0.88, 0.9), "reviews_chinese": measured(0.7, 0.9)}
    assert decided(test, **both) == "not decided"


def test_full_overfits_first() -> None:
    def measured(**best: int) -> Comparison:
        groups = [
            [
                own.model_copy(update={"best_step": step, "best_eval_loss": 1.0, "eval_loss": 1.5})
                for own in trials(method, 1.0, metric="loss")
            ]
            for method, step in best.items()
        ]
        return comparison(*groups)

    test = claims.full_overfits_first
    assert decided(test, overfitting=measured(full=10, lora=30)) == "reproduced"
    assert decided(test, overfitting=measured(full=30, lora=30)) == "not reproduced"
    one = comparison([own for own in measured(full=10, lora=30).trials if own.seed == 1])
    assert decided(test, overfitting=one) == "not decided"
    assert (
        "step 10 with full fine-tuning, at 30 with lora"
        in test(Records({"overfitting": measured(full=10, lora=30)})).evidence[0].figures
    )


def test_weaker_on_a_foreign_language() -> None:
    def measured(method: float) -> Comparison:
        return comparison(trials("prefix_tuning", method), trials("lora", 0.9), trials("hard_prompts", 0.5))

    test = claims.weaker_on_a_foreign_language
    assert decided(test, reviews_chinese=measured(0.6), reviews_english=measured(0.85)) == "reproduced"
    assert decided(test, reviews_chinese=measured(0.85), reviews_english=measured(0.6)) == "not reproduced"
    assert decided(test, reviews_chinese=measured(0.6)) == "not run yet"


def test_longer_helps_then_hurts() -> None:
    def measured(*levels: float) -> Comparison:
        pairs = zip(claims.LENGTHS, levels, strict=True)
        return comparison(*(trials("prefix_tuning", v, metric="loss", num_virtual_tokens=n) for n, v in pairs))

    test = claims.longer_helps_then_hurts
    assert decided(test, prefix_lengths=measured(2.0, 1.5, 1.6, 1.9)) == "reproduced"
    assert decided(test, prefix_lengths=measured(2.0, 1.8, 1.6, 1.4)) == "not reproduced"
    assert decided(test, prefix_lengths=measured(2.0, 1.8, 1.5, 1.5)) == "not decided"


@pytest.mark.parametrize(
    ("test", "part", "better", "worse"),
    [
        (claims.real_words_help_with_few_rows, "few_rows", {"prefix_init": "text"}, {"prefix_init": "random"}),
        (claims.infix_slightly_worse, "infix", {"placement": "prefix"}, {"placement": "infix"}),
    ],
)
def test_two_prefixes(
    test: Callable[[Records], Finding], part: str, better: dict[str, Any], worse: dict[str, Any]
) -> None:
    one, other = ({"metric": "loss", **settings} for settings in (better, worse))
    claimed = comparison(trials("prefix_tuning", 1.0, **one), trials("prefix_tuning", 1.2, **other))
    contrary = comparison(trials("prefix_tuning", 1.2, **one), trials("prefix_tuning", 1.0, **other))
    equal = comparison(trials("prefix_tuning", 1.0, **one), trials("prefix_tuning", 1.0, **other))
    assert [decided(test, **{part: found}) for found in (claimed, contrary, equal)] == [
        "reproduced",
        "not reproduced",
        "not decided",
    ]


def test_v2_better_on_tagging() -> None:
    found = comparison(trials("p_tuning", 0.2, metric="entity_f1"), trials("p_tuning_v2", 0.4, metric="entity_f1"))
    assert decided(claims.v2_better_on_tagging, encoder_entities=found) == "reproduced"


def test_small_rank_suffices() -> None:
    found = comparison(trials("lora", 0.9, r=8), trials("lora", 0.9, r=32), trials("hard_prompts", 0.5))
    (evidence,) = claims.small_rank_suffices(Records({"ranks": found})).evidence
    assert (evidence.status, evidence.seeds) == ("reproduced", 3)


def test_more_modules_beat_fewer() -> None:
    few, many = trials("lora", 0.7, target_modules=claims.FEW), trials("lora", 0.8, target_modules=claims.MANY)
    assert decided(claims.more_modules_beat_fewer, modules=comparison(few, many)) == "reproduced"


def test_extended_vocabulary_helps() -> None:
    plain = trials("lora", 1.0, metric="loss")
    extended = trials("lora", 1.5, metric="loss", new_tokens="tokens.txt")
    facts = Facts(
        new_tokens=2,
        first_tokens=["你"],
        tokens_per_character=2.0,
        tokens_per_character_extended=1.0,
        label_tokens=[20] * ROWS,
        label_tokens_extended=[10] * ROWS,
        characters=[10] * ROWS,
    )
    found = Records({"dialogues_chinese": comparison(plain, extended)}, facts)
    (evidence,) = claims.extended_vocabulary_helps(found).evidence
    assert evidence.status == "reproduced"  # 2 nats a character before, 1.5 after
    assert evidence.figures.startswith("nats saved on each character: +0.5")
    assert claims.extended_vocabulary_helps(Records(found.parts)).status == "not run yet"


def test_llama_adapter_in_between() -> None:
    levels = {"lora": 0.9, "llama_adapter": 0.8, "prompt_tuning": 0.7, "prefix_tuning": 0.7}
    found = comparison(*(trials(method, level) for method, level in levels.items()))
    assert decided(claims.llama_adapter_in_between, reviews_english=found) == "reproduced"
    below = comparison(*(trials(method, {**levels, "prefix_tuning": 0.85}[method]) for method in levels))
    assert decided(claims.llama_adapter_in_between, reviews_english=below) == "not reproduced"


def test_places_that_contradict_each_other_decide_nothing() -> None:
    def of(*states: Status) -> Status:
        return Finding(tuple(Evidence("here", status, "", 3) for status in states)).status

    assert of() == "not run yet"
    assert of("reproduced", "not decided") == "reproduced"
    assert of("reproduced", "not reproduced") == "not decided"
    here = {status: Evidence("here", status, "", 3) for status in get_args(Status)}
    assert Finding((here["reproduced"],)).told == "reproduced"
    assert Finding((here["reproduced"], here["not decided"])).told == "reproduced, in 1 of 2 places"
    assert Finding((here["reproduced"], here["not reproduced"])).told == "not decided: places contradict each other"


def test_a_record_comes_back_without_what_is_not_kept(tmp_path: Path) -> None:
    full = trial("lora", 1, 0.123456789, r=8)
    curve = [
        CurvePoint(step=1, tokens=1, seconds=1, train_loss=1.0),
        CurvePoint(step=2, tokens=2, seconds=2, eval_loss=1),
    ]
    answers = [ExampleAnswer(prompt=str(i), answer="x") for i in range(4)]
    full = full.model_copy(update={"curve": curve, "examples": answers, "adapter": "trials/a/adapter"})
    records.write(comparison([full], trials("hard_prompts", 0.5)), tmp_path / "small" / "ranks.json")
    found = Records.read(tmp_path / "small").parts["ranks"]
    kept = found.trials[0]
    assert (len(kept.curve), len(kept.examples), kept.adapter) == (1, 2, None)
    assert kept.scores == [round(score, 5) for score in full.scores]
    assert "system" not in found.machine
    assert Records.read(tmp_path / "full").parts == {}


def test_the_page_says_what_was_not_run() -> None:
    nothing = page.page({"full": Records({}), "small": Records({})})
    assert nothing.count("| not run yet |") == len(CLAIMS)
    assert "## The small edition" not in nothing
    some = page.page(
        {"full": Records({}), "small": Records({"ranks": comparison(trials("lora", 0.9, r=8, metric="loss"))})}
    )
    assert "## The small edition" in some
    assert "## The full edition" not in some
    assert "| lora, r 8 | 0.9" in some
    missing = some.partition("Not run yet: ")[2].partition("\n")[0]
    assert "English dialogues" in missing
    assert "English reviews" not in missing, "the small edition has no such part"


def test_answers_stand_side_by_side_as_text() -> None:
    answer = ExampleAnswer(prompt="你好\n|", reference="嗨", answer="`x` | <b>")
    one = trial("lora", 1, 0.5, metric="loss")
    one = one.model_copy(update={"examples": [answer], "test": {"loss": 0.5, "rouge_l": 0.25}})
    text = page.page({"full": Records({"dialogues_chinese": comparison([one])})})
    assert "Asked: `你好 /` Reference: `嗨`" in text
    assert "| lora | `'x' / <b>` |" in text
    assert "| lora | 0.500 | 0.250 |" in text


def test_a_trial_that_failed_is_told_with_its_reason() -> None:
    lost = trial("full", 1, 0.5).model_copy(update={"status": "failed", "reason": "the loss is not finite"})
    text = page.page({"full": Records({"ranks": comparison([lost])})})
    assert "| full | failed: the loss is not finite |" in text


def test_the_page_in_the_docs_is_that_of_the_records() -> None:
    editions: Mapping[str, Records] = {name: Records.read(records.RESULTS / name) for name in ("full", "small")}
    assert page.PAGE.read_text(encoding="utf-8") == page.page(editions), "run: python benchmarks/experiment.py --page"


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--parts", "nothing"])
    assert "invalid choice: 'nothing'" in capsys.readouterr().err


def test_answers_are_counted_as_losses_are(
    tiny_model: Callable[..., PreTrainedModel], tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "tiny")
    tiny_tokenizer.save_pretrained(tmp_path / "tiny")
    rows = [{"prompt": "a", "completion": "good film"}, {"prompt": "b", "completion": "bad"}]
    for name, own in (("all", rows), ("first", rows[:1]), ("second", rows[1:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own), encoding="utf-8")
    (tmp_path / "tokens.txt").write_text("good film\n", encoding="utf-8")
    recipe = {"models": [str(tmp_path / "tiny")], "template": "{{ prompt }}:", "target": " {{ completion }}"}
    found = counts.answer_counts(recipe, tmp_path / "all.jsonl", str(tmp_path / "tokens.txt"))
    model = petune.load(None, base=petune.load_base(tmp_path / "tiny", dtype="float32"))
    reading = {name: recipe[name] for name in ("template", "target")}
    losses = [
        petune.evaluate(model, str(tmp_path / f"{name}.jsonl"), metrics=["loss"], **reading).metrics["loss"]
        for name in ("all", "first", "second")
    ]
    assert found.characters == [len("good film"), len("bad")]
    assert np.average(losses[1:], weights=found.tokens) == pytest.approx(losses[0], rel=1e-4)
    assert found.extended[0] < found.tokens[0]
    assert found.extended[1] == found.tokens[1]
