"""The leaderboard: which rows and columns a table has, in which order, and what must never be averaged."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.boards.leaderboard import leaderboard
from peftbench.records.collect import collect
from tests.boards import cells, only_table, rows_by_name, tables
from tests.record_factory import make_record


def test_rows_are_sorted_by_mean_of_groups_then_name_with_incomplete_ones_last() -> None:
    # by flat mean the order of a and b would be the other way round: 0.60 against 0.6333
    records = [
        *cells("a", {"cifar100": [0.5], "dtd": [0.5], "eurosat": [0.8]}),
        *cells("b", {"cifar100": [0.7], "dtd": [0.7], "eurosat": [0.5]}),
        *cells("d", {"cifar100": [0.9], "dtd": [0.9], "eurosat": [0.9]}),
        *cells("c", {"cifar100": [0.9], "dtd": [0.9], "eurosat": [0.9]}),
        *cells("z", {"cifar100": [1.0]}),
    ]
    assert [row.method for row in only_table(*records).rows] == ["c", "d", "a", "b", "z"]


def test_columns_follow_the_groups_of_vtab() -> None:
    table = only_table(*cells("lora", {name: [0.5] for name in ("pets", "dmlab", "eurosat", "dtd", "cifar100")}))
    assert [column.name for column in table.columns] == ["cifar100", "dtd", "eurosat", "dmlab", "pets"]
    assert table.groups == ("natural", "specialized", "structured", "other")


def test_settings_that_meet_in_one_cell_become_rows_that_name_the_difference() -> None:
    low, high = (
        {"options": {"optim": {"lr": 0.001, "name": "adamw"}}},
        {"options": {"optim": {"lr": 0.01, "name": "adamw"}}},
    )
    records = [
        *cells("lora", {"cifar100": [0.5, 0.6], "dtd": [0.3, 0.4]}, **low),
        *cells("lora", {"cifar100": [0.8, 0.9]}, **high),
        *cells("vpt", {"cifar100": [0.7], "dtd": [0.7]}, **high),
    ]
    rows = rows_by_name(only_table(*records))
    assert set(rows) == {"lora (optim.lr=0.001)", "lora (optim.lr=0.01)", "vpt"}
    assert rows["lora (optim.lr=0.001)"].cells["cifar100"].mean == pytest.approx(0.55)
    assert rows["lora (optim.lr=0.01)"].cells["cifar100"].mean == pytest.approx(0.85)
    assert rows["lora (optim.lr=0.001)"].complete
    assert not rows["lora (optim.lr=0.01)"].complete


def test_other_settings_on_other_data_sets_are_one_row() -> None:
    """Hyperparameters chosen per data set are one method."""
    records = [
        *cells("lora", {"cifar100": [0.5]}, options={"optim": {"lr": 0.001}}),
        *cells("lora", {"dtd": [0.7]}, options={"optim": {"lr": 0.01}}),
    ]
    [row] = only_table(*records).rows
    assert row.method == "lora"
    assert row.complete


def test_a_label_that_a_split_produces_again_keeps_both_rows() -> None:
    records = [
        make_record(method="lora", accuracy=0.5, options={"lr": 1}),
        make_record(method="lora", accuracy=0.6, options={"lr": 2}),
        make_record(method="lora (lr=1)", accuracy=0.7),
    ]
    assert sorted(row.cells["cifar100"].mean for row in only_table(*records).rows) == [0.5, 0.6, 0.7]


def test_other_images_under_one_name_are_never_mixed() -> None:
    records = [
        *cells("lora", {"cifar100": [0.5], "dtd": [0.5]}),
        *cells("lora", {"cifar100": [0.9]}, membership="vtab1k-style:folder"),
    ]
    table = only_table(*records)
    names = [column.name for column in table.columns]
    assert len(names) == 3
    assert sum(name.startswith("cifar100 (vtab1k-style") for name in names) == 1
    assert sum("vtab1k-official:folder" in name for name in names) == 1
    [row] = table.rows
    assert {score.mean for score in row.cells.values()} == {0.5, 0.9}
    assert row.flat_mean is None
    assert any("cifar100: several sets of images" in note for note in table.notes)


def test_a_departure_from_the_official_list_stands_in_the_header() -> None:
    table = only_table(*cells("lora", {"dtd": [0.5]}, membership="vtab1k-style:tfds-order"))
    assert [column.name for column in table.columns] == ["dtd (vtab1k-style)"]
    assert any("vtab1k-style:tfds-order" in note for note in table.notes)
    assert table.rows[0].complete


def test_costs_are_means_over_data_sets() -> None:
    records = [
        make_record(dataset="cifar100", head_params=100, memory_bytes=10, speed=100.0, seed=0),
        make_record(dataset="cifar100", head_params=100, memory_bytes=30, speed=100.0, seed=1),
        make_record(dataset="dtd", head_params=300, memory_bytes=40, speed=50.0),
    ]
    [row] = only_table(*records).rows
    assert (row.params_method, row.params_head, row.memory_bytes) == (290_000, 200, 30)
    assert (row.train_images_per_second, row.eval_images_per_second) == (75, 225)


def test_an_unknown_cost_is_not_averaged_away() -> None:
    [row] = only_table(make_record(dataset="dtd", memory_bytes=None), make_record()).rows
    assert row.memory_bytes is None
    assert row.params_head == 76_900


def test_speed_never_mixes_devices() -> None:
    records = [
        make_record(device="cpu"),
        make_record(dataset="dtd", device="A100"),
        make_record(method="vpt", device="cpu"),
    ]
    table = only_table(*records)
    rows = rows_by_name(table)
    assert (rows["lora"].train_images_per_second, rows["lora"].device) == (None, "A100 / cpu")
    assert rows["vpt"].train_images_per_second == 100
    assert any("different devices" in note for note in table.notes)


def test_trials_that_never_saw_the_test_split_are_no_results() -> None:
    table = only_table(make_record(accuracy=None), make_record(method="vpt"))
    assert [row.method for row in table.rows] == ["vpt"]
    assert tables(make_record(accuracy=None)) == []
    assert tables() == []


def test_a_record_counts_once() -> None:
    first, second = make_record(memory_bytes=10), make_record(seed=1, memory_bytes=40)
    [row] = only_table(first, first, second).rows
    assert (row.num_seeds, row.memory_bytes) == ((2, 2), 25)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["dtd", "eurosat"]), st.integers(0, 4)), unique=True),
    st.randoms(),
)
def test_the_order_of_rows_does_not_matter(keys: list[tuple[str, str, int]], shuffler: random.Random) -> None:
    records = [
        make_record(method=method, dataset=dataset, seed=seed, accuracy=(7 * seed + len(dataset)) / 100)
        for method, dataset, seed in keys
    ]
    frame = collect(records)
    order = list(range(len(frame)))
    shuffler.shuffle(order)
    found = leaderboard(frame)
    assert leaderboard(frame.iloc[order]) == found
    # every record is in exactly one cell
    assert sum(score.n for table in found for row in table.rows for score in row.cells.values()) == len(keys)
