"""`petune train` with a recipe of several adapters."""

from petune.cli.progress import ProgressBar, Screen
from petune.cli.reporting import ESTIMATE_SHARE, print_data_reports, print_result, say
from petune.data.report import DataReport
from petune.errors import PetuneError
from petune.training.run_many import train_many
from petune.training.shared_recipe import SharedRecipe


def train_together(recipe: SharedRecipe, *, resume: bool, overwrite: bool, trust_remote_code: bool) -> None:
    """Train the adapters of ``recipe``, and print how each ended.

    Raises:
        PetuneError: of the first adapter that failed, told after the others were trained.
    """
    screen = Screen()

    def report(name: str, train: DataReport, evaluation: DataReport | None) -> None:
        say(f"{name}:")
        print_data_reports(train, evaluation)

    outcomes = train_many(
        recipe,
        resume=resume,
        overwrite=overwrite,
        trust_remote_code=trust_remote_code,
        listeners={name: [ProgressBar(name=name, screen=screen)] for name in recipe.recipes},
        on_data=report,
        estimate=ESTIMATE_SHARE,
    )
    failed: dict[str, PetuneError] = {}
    for outcome in outcomes:
        if outcome.error is not None:
            failed[outcome.name] = outcome.error
        if outcome.result is not None:
            say(f"{outcome.name}:")
            print_result(outcome.result)
            say()
    if failed:
        told = "; ".join(f"{name}: {error}" for name, error in failed.items())
        raise type(next(iter(failed.values())))(f"{len(failed)} of {len(outcomes)} adapters failed. {told}")
