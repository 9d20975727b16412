"""A made-up comparison (two bases, eight methods, three seeds, a search, trials that failed), and a tiny real one."""

import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from petune.comparison.assignment import Assignment, Assignments
from petune.comparison.plan import Track
from petune.comparison.recipe import CompareRecipe
from petune.comparison.record import (
    Budget,
    Comparison,
    CurvePoint,
    ExampleAnswer,
    Forgetting,
    SearchCost,
    Trial,
)
from petune.comparison.split import PartFiles, split_rows
from petune.comparison.survey import survey
from petune.comparison.unit import Unit

ROWS = 200
SEEDS = (1, 2, 3)
STEPS = 1000
PROMPTS = (
    ("Review: The rooms were clean and the staff could not have been kinder.\nSentiment:", "positive"),
    ("评论：房间很小，隔音也不好，早餐倒是不错。\n情感：", "negative"),
    ('Review: <script>alert("hello")</script> | not worth *half* the `price`.\nSentiment:', "negative"),
)


@dataclass(frozen=True)
class Kind:
    """What is made up for a method."""

    accuracy: float
    parameters: int
    rates: tuple[float, ...]
    rate: float
    memory: float
    seconds: float
    latency: float = 1.0
    overfits_at: int | None = None
    forgets: float = 0.02
    settings: tuple[tuple[str, Any], ...] = ()


KINDS = {
    "full": Kind(0.912, 134_515_008, (1e-5, 3e-5, 1e-4), 3e-5, 2.6e9, 905, overfits_at=250, forgets=0.34),
    "lora": Kind(0.908, 921_600, (1e-4, 5e-4, 2e-3), 5e-4, 9.7e8, 512, settings=(("r", 8),)),
    "bottleneck": Kind(
        0.897, 1_205_000, (1e-4, 1e-3, 5e-3), 1e-3, 9.9e8, 540, 1.11, settings=(("bottleneck_dim", 32),)
    ),
    "llama_adapter": Kind(0.871, 345_630, (1e-3, 9e-3, 3e-2), 9e-3, 1.02e9, 601, 1.07),
    "prefix_tuning": Kind(0.883, 368_640, (1e-3, 1e-2, 5e-2), 1e-2, 8.1e8, 431, overfits_at=400),
    "p_tuning_v2": Kind(0.886, 368_641, (3e-4, 1e-3, 1e-2), 1e-3, 8.2e8, 436),
    "prompt_tuning": Kind(0.842, 11_520, (1e-2, 1e-1, 3e-1), 3e-1, 7.6e8, 421),
}
BASES = {"HuggingFaceTB/SmolLM2-135M": 0.0, "openai-community/gpt2": -0.07}


def curve_of(kind: Kind, random_: random.Random) -> list[CurvePoint]:
    points = []
    for step in range(0, STEPS + 1, 25):
        progress = step / STEPS
        fit = (2.1 - 1.7 * kind.accuracy) * (1 + 1.3 * math.exp(-9 * progress))
        train = fit * (1 - 0.35 * progress) + random_.gauss(0, 0.015)
        late = 0.0 if kind.overfits_at is None else max(0.0, step - kind.overfits_at) / STEPS
        evaluated = step % 50 == 0
        points.append(
            CurvePoint(
                step=step,
                tokens=step * 512,
                seconds=kind.seconds * progress,
                train_loss=train if step else None,
                eval_loss=fit * (1 + 0.5 * late) + random_.gauss(0, 0.001) if evaluated else None,
            )
        )
    return points


def scores_of(accuracy: float, random_: random.Random) -> list[float]:
    """Rows have a difficulty of their own, so that methods agree on most of them."""
    difficulty = random.Random(0)
    return [float(0.75 * difficulty.random() + 0.25 * random_.random() < accuracy) for _ in range(ROWS)]


def final_trial(base: str, method: str, seed: int) -> Trial:
    kind = KINDS[method]
    random_ = random.Random(f"{base} {method} {seed}")
    scores = scores_of(kind.accuracy + BASES[base] + random_.gauss(0, 0.006), random_)
    curve = curve_of(kind, random_)
    losses = {point.step: point.eval_loss for point in curve if point.eval_loss is not None}
    best_step = min(losses, key=lambda step: losses[step])
    settings = {**dict(kind.settings), "learning_rate": kind.rate}
    identity = f"{base.rpartition('/')[2]}-{method}-seed{seed}"
    return Trial(
        id=identity,
        base=base,
        method=method,
        settings=settings,
        seed=seed,
        stage="final",
        budget=Budget(unit="tokens", amount=STEPS * 512),
        status="done",
        trainable_parameters=kind.parameters,
        trainable_share=kind.parameters / 134_515_008,
        bytes_stored=4 * kind.parameters + 1800,
        metric="accuracy",
        higher_is_better=True,
        development={"accuracy": sum(scores) / ROWS + random_.gauss(0, 0.01), "loss": losses[best_step]},
        test={"accuracy": sum(scores) / ROWS, "loss": losses[best_step] + 0.01},
        scores=scores,
        curve=curve,
        best_step=best_step,
        train_loss=curve[-1].train_loss,
        eval_loss=curve[-1].eval_loss,
        best_eval_loss=losses[best_step],
        peak_memory_bytes=round(kind.memory * random_.uniform(0.99, 1.01)),
        seconds=kind.seconds * random_.uniform(0.97, 1.05),
        tokens_per_second=STEPS * 512 / kind.seconds,
        can_generate=True,
        generation_tokens_per_second=41.0 / kind.latency,
        generation_latency_ratio=kind.latency * random_.uniform(0.99, 1.01),
        forgetting=Forgetting(
            neutral_loss_before=3.214,
            neutral_loss_after=3.214 * (1 + kind.forgets * random_.uniform(0.8, 1.2)),
            answer_tokens_before=21.4,
            answer_tokens_after=2.1 if method == "full" else 17.5,
            other_language_share_before=0.01,
            other_language_share_after=0.14 if method == "full" else 0.015,
        ),
        examples=[
            ExampleAnswer(prompt=prompt, reference=reference, answer=answer_of(reference, random_))
            for prompt, reference in PROMPTS
        ],
        command=f"petune train --base-model {base} --method {method} --data examples/reviews.jsonl --seed {seed} "
        f"--max-tokens {STEPS * 512} " + " ".join(f"{k}={v}" for k, v in settings.items()),
        adapter=f"trials/{identity}/adapter",
    )


def answer_of(reference: str, random_: random.Random) -> str:
    if random_.random() < 0.7:
        return reference
    return random_.choice(
        ("positive", "negative", "The sentiment of this review is mixed: | they liked the <b>food</b>.")
    )


def floor_trial(base: str) -> Trial:
    random_ = random.Random(base)
    scores = scores_of(0.71 + BASES[base], random_)
    return Trial(
        id=f"{base.rpartition('/')[2]}-floor",
        base=base,
        method="hard_prompts",
        settings={},
        seed=1,
        stage="floor",
        budget=Budget(unit="tokens", amount=0),
        status="done",
        trainable_parameters=0,
        trainable_share=0.0,
        bytes_stored=0,
        metric="accuracy",
        higher_is_better=True,
        development={"accuracy": 0.7},
        test={"accuracy": sum(scores) / ROWS, "loss": 1.1},
        scores=scores,
        peak_memory_bytes=610_000_000,
        seconds=0.0,
        can_generate=True,
        generation_tokens_per_second=41.2,
        generation_latency_ratio=1.0,
        examples=[
            ExampleAnswer(prompt=prompt, reference=reference, answer="positive\nReview: I liked it very much\n" * 3)
            for prompt, reference in PROMPTS
        ],
        command=f"petune train --base-model {base} --method hard_prompts --data examples/reviews.jsonl",
        adapter=f"trials/{base.rpartition('/')[2]}-floor/adapter",
    )


def search_trials(base: str, method: str) -> Iterator[Trial]:
    kind = KINDS[method]
    for rung, tokens in enumerate((32_000, 128_000)):
        for rate in kind.rates if rung == 0 else kind.rates[-2:]:
            accuracy = kind.accuracy - 0.1 - 0.03 * abs(math.log10(rate / kind.rate)) + 0.05 * rung
            yield Trial(
                id=f"{base.rpartition('/')[2]}-{method}-rung{rung}-{rate:g}",
                base=base,
                method=method,
                settings={**dict(kind.settings), "learning_rate": rate},
                seed=0,
                stage="search",
                rung=rung,
                budget=Budget(unit="tokens", amount=tokens),
                status="done",
                metric="accuracy",
                higher_is_better=True,
                development={"accuracy": accuracy},
                seconds=kind.seconds * tokens / (STEPS * 512),
                command=f"petune train --base-model {base} --method {method} --learning-rate {rate:g}",
            )


def ended_badly(trial: Trial, status: str, reason: str) -> Trial:
    kept = ("id", "base", "method", "settings", "seed", "stage", "budget", "metric", "higher_is_better", "command")
    values = {name: getattr(trial, name) for name in kept}
    return Trial(**{**values, "status": status, "reason": reason})


def make_comparison() -> Comparison:
    trials: list[Trial] = []
    for base in BASES:
        trials.append(floor_trial(base))
        for method in KINDS:
            second = base != next(iter(BASES))
            if not (second and method == "llama_adapter"):
                trials += search_trials(base, method)
            for seed in SEEDS:
                trial = final_trial(base, method, seed)
                if second and method == "full":
                    trial = ended_badly(trial, "out_of_memory", "needs about 31.2 GiB, the machine has 24.0 GiB")
                elif second and method == "llama_adapter":
                    trial = ended_badly(trial, "refused", "the base's attention has no gate to adapt")
                elif not second and method == "bottleneck" and seed == 3:
                    trial = ended_badly(trial, "failed", "the loss became NaN at step 212 | see trials/log.txt")
                trials.append(trial)
    searched = [trial for trial in trials if trial.stage == "search"]
    return Comparison(
        recipe={"models": list(BASES), "methods": list(KINDS), "seeds": list(SEEDS), "budget": {"tokens": STEPS * 512}},
        command="petune compare reviews.yaml --output-dir outputs/reviews",
        created="2026-03-01T09:30:00+00:00",
        finished="2026-03-01T12:04:10+00:00",
        machine={"processor": "AMD EPYC 7763", "cores": 2, "memory": "24.0 GiB", "torch": "2.13.0"},
        petune_version="0.1.0",
        data={"examples/reviews.jsonl": "3f" * 32, "examples/reviews_test.jsonl": "a0" * 32},
        search_cost=SearchCost(
            trials=len(searched),
            seconds=sum(trial.seconds or 0.0 for trial in searched),
            tokens=round(sum(trial.budget.amount for trial in searched)),
        ),
        trials=trials,
    )


@pytest.fixture(scope="session")
def comparison() -> Comparison:
    """Two bases, eight methods, three seeds, with a search and some trials that did not end well."""
    return make_comparison()


@pytest.fixture
def make_trial() -> Callable[..., Trial]:
    """Make a final trial that ended well: ``make_trial("lora", seed=1, scores=[1.0, 0.0], **other_fields)``."""

    def make(
        method: str = "lora", *, base: str = "demo", seed: int = 1, scores: Sequence[float] = (), **fields: Any
    ) -> Trial:
        values: dict[str, Any] = {
            "id": f"{base}-{method}-{seed}",
            "base": base,
            "method": method,
            "settings": {},
            "seed": seed,
            "stage": "final",
            "budget": Budget(unit="tokens", amount=1000),
            "status": "done",
            "metric": "accuracy",
            "higher_is_better": True,
            "test": {"accuracy": sum(scores) / len(scores)} if scores else {},
            "scores": list(scores),
            "command": f"petune train --method {method} --seed {seed}",
        }
        return Trial(**{**values, **fields})

    return make


@pytest.fixture
def make_comparison_of() -> Callable[..., Comparison]:
    """Make a comparison of trials."""

    def make(*trials: Trial, **fields: Any) -> Comparison:
        values: dict[str, Any] = {
            "recipe": {},
            "command": "petune compare recipe.yaml",
            "created": "2026-03-01T09:30:00+00:00",
            "machine": {},
            "petune_version": "0.1.0",
            "data": {},
            "trials": list(trials),
        }
        return Comparison(**{**values, **fields})

    return make


@pytest.fixture
def tiny_folder(
    tiny_model: Callable[..., PreTrainedModel], tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> str:
    """Folder of a tiny llama with its tokenizer."""
    tiny_model("llama", num_hidden_layers=1).save_pretrained(tmp_path / "tiny")
    tiny_tokenizer.save_pretrained(tmp_path / "tiny")
    return str(tmp_path / "tiny")


@pytest.fixture
def compare_keys(tiny_folder: str, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """The keys of a small comparison: ``compare_keys(methods=["lora"], seeds=[1, 2], ...)``."""
    rows = [{"text": f"row {i}", "label": "positive" if i % 2 else "negative"} for i in range(24)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def make(**changes: Any) -> dict[str, Any]:
        defaults = {
            "models": [tiny_folder],
            "data": str(tmp_path / "rows.jsonl"),
            "methods": ["lora"],
            "baselines": False,
            "rate_factors": [1],
            "search_settings": False,
            "budget": 2,
            "budget_unit": "steps",
            "evaluations": 1,
            "forgetting": False,
            "engine": "inline",
            "per_device_train_batch_size": 4,
            "output_dir": str(tmp_path / "out"),
        }
        return {**defaults, **changes}

    return make


@pytest.fixture
def part_files(compare_keys: Callable[..., dict[str, Any]], tmp_path: Path) -> PartFiles:
    """The rows of the small comparison, written as its parts."""
    return split_rows(CompareRecipe.parse(compare_keys()).options).write(tmp_path / "parts")


@pytest.fixture
def track(compare_keys: Callable[..., dict[str, Any]], part_files: PartFiles) -> Callable[..., Track]:
    """Make the track of the only method: ``track(methods=["ia3"], digests=("a", "b", "c"))``."""

    def make(digests: tuple[str, str, str] = ("a", "b", "c"), **changes: Any) -> Track:
        recipe = CompareRecipe.parse(compare_keys(**changes))
        found = survey(recipe.options.models[0], recipe.options, part_files)
        return Track(found, recipe.entries()[0], recipe, part_files, digests)

    return make


@pytest.fixture
def assigned(track: Callable[..., Track]) -> Callable[..., Assignment]:
    """Make the assignment of a method's final trials: ``assigned(methods=["ia3"], seeds=[1, 2], ...)``."""

    def make(**changes: Any) -> Assignment:
        found = track(**changes)
        return Assignments([found]).of(Unit(tuple(found.final_jobs(found.candidates[0]))))

    return make


@pytest.fixture(autouse=True)
def _quick(quick: None) -> None:
    """Every test here is of tiny models."""
