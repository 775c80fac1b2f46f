"""Means over data sets, groups and seeds: worked out by hand, and published ones."""

from __future__ import annotations

from typing import Any

import pytest

from peftbench.boards.leaderboard import leaderboard
from peftbench.boards.table import ppt, score
from peftbench.records.collect import collect
from peftbench.records.record import RunRecord
from tests.boards import cells, only_table, recipe_record, rows_by_name
from tests.record_factory import make_record

# LoRA, ViT-B/16, 0.29 M parameters, as printed by V-PETL Bench and six papers: natural, specialized, structured.
PUBLISHED_LORA = {
    "natural": [67.1, 91.4, 69.4, 98.8, 90.4, 85.3, 54.0],
    "specialized": [84.9, 95.3, 84.4, 73.6],
    "structured": [82.9, 69.2, 49.8, 78.5, 75.7, 47.1, 31.0, 44.0],
}


def published_lora(**choices: Any) -> list[RunRecord]:
    return [
        make_record(method="lora", dataset=f"{group}{index}", group=group, accuracy=percent / 100, **choices)
        for group, percents in PUBLISHED_LORA.items()
        for index, percent in enumerate(percents)
    ]


def test_the_published_means_of_lora_come_out() -> None:
    [row] = only_table(*published_lora(method_params=290_000)).rows
    assert row.flat_mean and row.mean_of_groups and row.ppt
    assert round(100 * row.flat_mean.mean, 2) == 72.25
    assert round(100 * row.mean_of_groups.mean, 2) == 74.60
    assert round(row.ppt, 2) == 0.71
    # sums of the printed cells: 556.4 over 7, 338.2 over 4, 478.2 over 8
    assert {name: 100 * mean.mean for name, mean in row.group_means.items()} == pytest.approx(
        {"natural": 79.485714286, "specialized": 84.55, "structured": 59.775}
    )


@pytest.mark.parametrize(
    ("accuracy", "millions", "printed"),
    # rows of V-PETL Bench: linear, adapter, vpt_deep, adaptformer, fact_tk, lst, hst
    [
        (0.5294, 0.0, 0.53),
        (0.7144, 0.16, 0.71),
        (0.6943, 0.56, 0.68),
        (0.7232, 0.16, 0.72),
        (0.7323, 0.07, 0.73),
        (0.7170, 2.38, 0.65),
        (0.7599, 0.78, 0.74),
    ],
)
def test_printed_ppt_scores_come_out(accuracy: float, millions: float, printed: float) -> None:
    assert round(ppt(accuracy, millions * 1e6), 2) == printed


def test_mean_and_sample_deviation_by_hand() -> None:
    # deviations -0.02, 0, 0.02: squares add up to 0.0008, over n - 1 = 2 is 0.0004, root 0.02
    result = score([0.50, 0.52, 0.54])
    assert result.mean == pytest.approx(0.52)
    assert result.std == pytest.approx(0.02)
    assert result.n == 3
    assert score([0.5]).std is None


def test_overall_means_and_their_spread_by_hand() -> None:
    records = cells("lora", {"cifar100": [0.60, 0.70], "dtd": [0.40, 0.40], "eurosat": [0.90, 0.94]})
    [row] = only_table(*records).rows
    assert row.cells["cifar100"].mean == pytest.approx(0.65)
    assert row.cells["cifar100"].std == pytest.approx(0.05 * 2**0.5)
    assert row.cells["dtd"].std == 0
    # natural: seeds 0.50 and 0.55; flat: seeds 1.90/3 and 2.04/3; of groups: seeds 0.70 and 0.745
    assert row.group_means["natural"].mean == pytest.approx(0.525)
    assert row.group_means["natural"].std == pytest.approx(0.025 * 2**0.5)
    assert row.flat_mean and row.mean_of_groups
    assert row.flat_mean.mean == pytest.approx(3.94 / 6)
    assert row.flat_mean.std == pytest.approx(0.14 / 3 / 2**0.5)
    assert row.mean_of_groups.mean == pytest.approx(0.7225)
    assert row.mean_of_groups.std == pytest.approx(0.0225 * 2**0.5)
    assert row.num_seeds == (2, 2)


def test_data_sets_with_other_seeds_have_a_mean_but_no_overall_spread() -> None:
    records = cells("lora", {"cifar100": [0.60, 0.70, 0.80], "eurosat": [0.90]})
    [row] = only_table(*records).rows
    assert row.flat_mean
    assert row.flat_mean.mean == pytest.approx(0.80)
    assert (row.flat_mean.std, row.flat_mean.n) == (None, 1)
    assert row.num_seeds == (1, 3)


def test_an_incomplete_row_has_no_means() -> None:
    records = cells("lora", {"cifar100": [0.9], "eurosat": [0.9]}) + cells("vpt", {"cifar100": [0.99]})
    table = only_table(*records)
    row = rows_by_name(table)["vpt"]
    assert "eurosat" not in row.cells
    assert (row.flat_mean, row.mean_of_groups, row.ppt, dict(row.group_means)) == (None, None, None, {})
    assert not row.complete
    assert rows_by_name(table)["lora"].complete
    assert any("1 of 2 rows" in note for note in table.notes)


def test_one_own_cell_changes_no_mean_of_the_others() -> None:
    shipped = [recipe_record(method, 0.005, dataset, 0.6) for method in ("lora", "ssf") for dataset in ("a", "b")]
    [before] = leaderboard(collect(shipped))
    [after] = leaderboard(collect([*shipped, recipe_record("lora", 0.005, "folder", 0.9)]))
    assert [row.flat_mean for row in after.rows] == [row.flat_mean for row in before.rows]
    assert [column.name for column in after.shared] == ["a", "b"]
    assert "means and ranks are over a, b, which 2 of 2 rows share; not in them: folder" in after.notes


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_data_set_with_fewer_seeds_takes_no_verdict_from_the_others(seeds: int) -> None:
    repeated = [
        make_record(method=method, dataset=dataset, seed=seed, accuracy=accuracy + 0.01 * seed)
        for method, accuracy in (("lora", 0.6), ("ssf", 0.3))
        for dataset in ("a", "b")
        for seed in (0, 1, 2)
    ]
    new = [
        make_record(method=method, dataset="new", seed=seed, accuracy=0.5)
        for method in ("lora", "ssf")
        for seed in range(seeds)
    ]
    [before], [after] = leaderboard(collect(repeated)), leaderboard(collect([*repeated, *new]))
    assert after.comparison == before.comparison and after.comparison.verdicts == {"lora": "best", "ssf": "below"}
    assert [row.flat_mean for row in after.rows] == [row.flat_mean for row in before.rows]
    assert {row.cells["new"].n for row in after.rows} == {seeds}
    assert "means and ranks are over a, b, which 2 of 2 rows share; not in them: new (fewer seeds)" in after.notes
    if seeds == 1:
        # three seeds on one data set of three do not leave the other two out
        once = [record for record in repeated if record.labels["dataset"] == "a" or record.seed == 0]
        [mixed] = leaderboard(collect([*once, *new]))
        assert [column.name for column in mixed.shared] == ["a", "b", "new"]
