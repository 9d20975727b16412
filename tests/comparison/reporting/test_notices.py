"""Why figures are missing."""

from collections.abc import Callable

import pytest

from petune.comparison.record import Comparison, Trial
from petune.comparison.reporting.contenders import Contender, contenders_of
from petune.comparison.reporting.notices import Notice, notices_of


@pytest.fixture
def contender(
    make_trial: Callable[..., Trial], make_comparison_of: Callable[..., Comparison]
) -> Callable[..., Contender]:
    """Make a contender of trials, each given by its seed and the fields that differ."""

    def make(*fields: dict[str, object]) -> Contender:
        trials = [make_trial(seed=seed, **values) for seed, values in enumerate(fields, 1)]
        (found,) = contenders_of(make_comparison_of(*trials))
        return found

    return make


BROKEN = {"status": "failed", "reason": "it broke"}
LARGE = {"status": "out_of_memory", "reason": "needs 3 GiB"}
SEARCHED = {"stage": "search", "rung": 0}


@pytest.mark.parametrize(
    ("fields", "notices"),
    [
        ([{"scores": [1.0]}], []),
        ([LARGE, LARGE], [Notice("out of memory", "needs 3 GiB")]),
        ([{"scores": [1.0]}, BROKEN], [Notice("failed", "seed 2: it broke")]),
        (
            [BROKEN, {}, BROKEN, LARGE],
            [Notice("failed", "seeds 1, 3: it broke"), Notice("out of memory", "seed 4: needs 3 GiB")],
        ),
        ([SEARCHED], [Notice("not run yet", "")]),
        ([{**SEARCHED, **BROKEN}], [Notice("failed", "in the search: it broke")]),
        ([SEARCHED, {**SEARCHED, **BROKEN}], [Notice("not run yet", "")]),
    ],
)
def test_what_is_said(
    contender: Callable[..., Contender], fields: list[dict[str, object]], notices: list[Notice]
) -> None:
    assert notices_of(contender(*fields)) == notices
