"""The tables: what stands in their cells."""

from collections.abc import Callable

from petune.comparison.record import Comparison, CurvePoint, Forgetting, Trial
from petune.comparison.reporting.columns import lines_of
from petune.comparison.reporting.contenders import contenders_of
from petune.comparison.reporting.standing import Standing, standings_of
from petune.comparison.reporting.tables import COST, FORGETTING, LEARNING, QUALITY, TABLES

MakeTrial = Callable[..., Trial]
MakeComparison = Callable[..., Comparison]


def cells_of(standing: Standing) -> dict[str, dict[str, list[str]]]:
    """Return for each table the cells of each method, each with its notes."""
    plain = str.maketrans({"\N{NO-BREAK SPACE}": " "})
    return {
        table.name: {
            line.contender.method: [" / ".join((cell.text, *cell.notes)).translate(plain) for cell in line.cells]
            for line in lines_of(table, standing)
        }
        for table in TABLES
    }


def test_every_figure_stands_in_its_table(make_trial: MakeTrial, make_comparison_of: MakeComparison) -> None:
    trials = [
        make_trial(
            seed=seed,
            scores=[1.0] * (97 + seed) + [0.0] * (3 - seed),
            trainable_parameters=921_600,
            trainable_share=0.0069,
            bytes_stored=3_700_000,
            curve=[CurvePoint(step=step, tokens=step, seconds=step) for step in (100, 200)],
            best_step=100 * seed,
            train_loss=0.3,
            eval_loss=0.5 + 0.1 * seed,
            best_eval_loss=0.5,
            peak_memory_bytes=2**30,
            seconds=61.0,
            tokens_per_second=1234.0,
            generation_tokens_per_second=40.0,
            generation_latency_ratio=1.1,
            forgetting=Forgetting(
                neutral_loss_before=3.0, neutral_loss_after=3.5, answer_tokens_before=20, answer_tokens_after=10,
                other_language_share_before=0.0, other_language_share_after=0.25,
            ),
        )
        for seed in (1, 2)
    ]  # fmt: skip
    other = [make_trial("bitfit", seed=seed, scores=[0.0] * 50 + [1.0] * 50) for seed in (1, 2)]
    (standing,) = standings_of(contenders_of(make_comparison_of(*trials, *other)))
    cells = cells_of(standing)
    assert cells["quality"]["lora"] == ["0.985 / 0.980 to 0.990 / 2 seeds", "best", "922 k", "0.69 %", "3.53 MiB"]
    assert cells["quality"]["bitfit"][1].startswith("−0.485 / −0.")
    assert cells["learning"]["lora"] == [
        "0.300", "0.650 / 0.600 to 0.700", "+0.350", "0.500", "100 to 200 / of 200", "+0.150",
    ]  # fmt: skip
    assert cells["cost"]["lora"] == ["1.00 GiB", "1 min 01 s", "1.23 k/s", "40/s", "+10.0 %"]
    assert cells["forgetting"]["lora"] == ["3.500 / before 3.000", "25 % / before 0 %", "10.0 / before 20.0"]
    assert cells["cost"]["bitfit"] == ["–"] * 5


def test_a_table_without_figures_is_left_out(make_trial: MakeTrial, make_comparison_of: MakeComparison) -> None:
    (standing,) = standings_of(contenders_of(make_comparison_of(make_trial(scores=[1.0]))))
    assert [bool(lines_of(table, standing)) for table in (QUALITY, LEARNING, COST, FORGETTING)] == [
        True,
        False,
        False,
        False,
    ]


def test_the_leader_of_a_column_is_marked(make_trial: MakeTrial, make_comparison_of: MakeComparison) -> None:
    trials = [
        make_trial(method, scores=[1.0], bytes_stored=stored)
        for method, stored in (("lora", 9), ("bitfit", 5), ("ia3", 7))
    ]
    floor = make_trial("hard_prompts", scores=[1.0], bytes_stored=0, stage="floor")
    (standing,) = standings_of(contenders_of(make_comparison_of(*trials, floor)))
    leads = {line.contender.method: line.cells[-1].leads for line in lines_of(QUALITY, standing)}
    assert leads == {"lora": False, "bitfit": True, "ia3": False, "hard_prompts": False}


def test_where_most_are_equal_nobody_leads(make_trial: MakeTrial, make_comparison_of: MakeComparison) -> None:
    trials = [
        make_trial(method, scores=[1.0], bytes_stored=stored)
        for method, stored in (("lora", 5), ("bitfit", 5), ("ia3", 7))
    ]
    (standing,) = standings_of(contenders_of(make_comparison_of(*trials)))
    assert not any(cell.leads for line in lines_of(QUALITY, standing) for cell in line.cells)


def test_every_column_says_what_it_means() -> None:
    columns = [column for table in TABLES for column in table.columns]
    assert len({column.head for column in columns}) == len(columns) == 19
    assert all(column.meaning for column in columns)
