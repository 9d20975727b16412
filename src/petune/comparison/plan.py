"""What a comparison will run: on each base each method, first its search, then its final trials."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

from petune import methods
from petune.comparison.budget import part_of, steps_for
from petune.comparison.estimate import Estimate, estimate
from petune.comparison.job import Job, Measures
from petune.comparison.method_entry import MethodEntry
from petune.comparison.recipe import CompareRecipe
from petune.comparison.record import Budget, Stage
from petune.comparison.search import Rung, rungs
from petune.comparison.split import PartFiles
from petune.comparison.survey import Survey
from petune.data.options import DataOptions
from petune.errors import ConfigError
from petune.evaluation.metrics import higher_is_better
from petune.training.options import TrainingOptions

_LOGGED = 40
"""Points of a learning curve at which the training loss is noted."""

SCHEDULE_KEYS = ("max_steps", "eval_steps", "logging_steps")
"""What :func:`schedule_keys` says."""


@final
@dataclass(frozen=True, slots=True)
class Track:
    """One method with its settings on one base: the way from its candidates to its final trials."""

    survey: Survey
    entry: MethodEntry
    recipe: CompareRecipe
    files: PartFiles
    digests: tuple[str, str, str]
    """SHA-256 of the rows: training, development, test."""

    @property
    def candidates(self) -> tuple[dict[str, Any], ...]:
        """The settings to choose from."""
        return self.entry.candidates(self.recipe.options.rate_factors)

    @property
    def rungs(self) -> tuple[Rung, ...]:
        """The rounds of the search."""
        found = self.candidates
        return rungs(len(found), self.recipe.options.reduction, len(self._variations(found[0])))

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the final trials; what does not train has the same result for each."""
        return self.recipe.options.seeds if methods.get(self.entry.method).trains else self.recipe.options.seeds[:1]

    @property
    def refusal(self) -> str | None:
        """Why none of its candidates can be used on this base; None where one can."""
        reasons = [self.survey.outlook(self.entry.method, settings).refused for settings in self.candidates]
        return None if None in reasons else reasons[0]

    def check(self) -> None:
        """Check what would be told too late, or never.

        Raises:
            ConfigError: the budget pays for no step, or the search would rank losses of several vocabularies.
        """
        self.final_jobs(self.candidates[0])
        vocabularies = sorted(map(str, self.entry.search.get("new_tokens", ())))
        per_token = not higher_is_better(self.survey.metric)  # of petune's own metrics these are loss and perplexity
        if per_token and len(vocabularies) > 1:
            raise ConfigError(
                f"method {self.entry.method}: search has several new_tokens ({', '.join(vocabularies)}), and"
                f" the {self.survey.metric} that decides is per token: it cannot choose between vocabularies. Make them"
                " entries of their own under methods, or let another metric decide"
            )

    def search_jobs(self, rung: int, settings: Sequence[dict[str, Any]]) -> list[Job]:
        """Return the trials of one round.

        Args:
            rung: its number.
            settings: those that are left from the round before.
        """
        this = self.rungs[rung]
        taking_part = [other for own in settings for other in self._variations(own)] if this.varied else settings
        return [self._job("search", rung, own, self.seeds[0], this.share) for own in taking_part]

    def rivals(self, rung: int, settings: Sequence[dict[str, Any]]) -> list[Job]:
        """Return the trials of the round before that those of one round are ranked with: what variations are held to.

        Args:
            rung: its number.
            settings: those that are left from the round before.
        """
        return self.search_jobs(rung - 1, settings) if self.rungs[rung].varied else []

    def final_jobs(self, settings: dict[str, Any]) -> list[Job]:
        """Return the final trials."""
        stage: Stage = "final" if methods.get(self.entry.method).trains else "floor"
        return [self._job(stage, None, settings, seed, 1.0) for seed in self.seeds]

    def expected(self) -> Iterator[Job]:
        """Yield as many trials as there will be, with candidates in the place of those that the search will choose."""
        for number, rung in enumerate(self.rungs):
            yield from self.search_jobs(number, self.candidates[: rung.entering])
        yield from self.final_jobs(self.candidates[0])

    def cost(self, job: Job) -> Estimate:
        """Return the estimated cost of a trial."""
        options = TrainingOptions.model_validate({**self.recipe.training, "seed": job.seed})
        evaluations = self.recipe.options.evaluations if job.stage == "final" else 1
        # What the search tries by itself is taken to cost what the entry's own settings do, or measuring took minutes.
        like = job.settings if self.entry.search else self.entry.settings
        return estimate(job, self.survey, options, like=like, evaluations=evaluations)

    def _variations(self, found: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        """Return what is tried beside settings that were found; what cannot be used here or shortens rows is not."""
        options = self.recipe.options
        others = self.entry.variations(found) if options.search_settings else ()
        return tuple(o for o in others if self.survey.leaves_room(self.entry.method, o, options.max_length))

    def _job(self, stage: Stage, rung: int | None, settings: dict[str, Any], seed: int, share: float) -> Job:
        options = self.recipe.options
        trains = methods.get(self.entry.method).trains
        shared = TrainingOptions.model_validate({**self.recipe.training, "seed": seed})
        steps = part_of(steps_for(options.budget_unit, options.budget, self.survey.train, shared), share)
        schedule = schedule_keys(steps, options.evaluations if stage == "final" else 1) if steps and trains else {}
        return Job(
            entry=self.entry.label,
            stage=stage,
            rung=rung,
            budget=Budget(unit=options.budget_unit, amount=options.budget * share if trains else 0),
            settings=settings,
            keys={
                **{name: getattr(options, name) for name in DataOptions.model_fields},
                "max_length": self.survey.max_length(self.entry.method, settings, options.max_length),
                "validation_split": None,
                "data": str(self.files.train),
                "eval_data": str(self.files.development),
                "model": self.survey.name,
                "task": options.task,
                "dtype": options.dtype,
                "quantization": options.quantization,
                "device": options.device,
                **self.recipe.training,
                "save_total_limit": 1,
                "seed": seed,
                "method": self.entry.method,
                **settings,
                **schedule,
                **self._direction(settings),
            },
            measures=Measures(
                metric=self.survey.metric,
                greater_is_better=options.greater_is_better,
                metrics=() if stage == "search" else options.metrics,
                max_new_tokens=options.max_new_tokens,
                test=None if stage == "search" else str(self.files.test),
                examples=0 if stage == "search" else options.examples,
                forgetting=options.forgetting and stage != "search",
                generation_speed=options.generation_speed or stage == "search",
            ),
            rows=self.digests[:2] if stage == "search" else self.digests,
        )

    def _direction(self, settings: dict[str, Any]) -> dict[str, bool]:
        """Return the key that says less is better, where a method that chooses does so by the metric that decides."""
        options, method = self.recipe.options, methods.get(self.entry.method)
        if method.trains or options.greater_is_better is not False:
            return {}
        chooses_by = method.selection_metric(method.configure(settings))
        return {"greater_is_better": False} if chooses_by == options.metric else {}


def schedule_keys(steps: int, evaluations: int) -> dict[str, int]:
    """Return the keys of a training of so many steps, measured so many times."""
    return {
        "max_steps": steps,
        "eval_steps": -(-steps // min(evaluations, steps)),
        "logging_steps": max(1, steps // _LOGGED),
    }
