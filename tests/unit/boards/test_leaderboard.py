"""The leaderboard: numbers worked out by hand and published ones, and what must never be averaged."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.boards.leaderboard import leaderboard
from peftbench.boards.render import frame
from peftbench.boards.table import Row, Table, ppt, score
from peftbench.config.shipped import shipped_options
from peftbench.records.collect import collect
from peftbench.records.record import RunRecord
from peftbench.train.options import OptimSpec
from tests.record_factory import make_record

# LoRA, ViT-B/16, 0.29 M parameters, as printed by V-PETL Bench and six papers: natural, specialized, structured.
PUBLISHED_LORA = {
    "natural": [67.1, 91.4, 69.4, 98.8, 90.4, 85.3, 54.0],
    "specialized": [84.9, 95.3, 84.4, 73.6],
    "structured": [82.9, 69.2, 49.8, 78.5, 75.7, 47.1, 31.0, 44.0],
}


def tables(*records: RunRecord) -> list[Table]:
    return leaderboard(collect(records))


def only_table(*records: RunRecord) -> Table:
    [table] = tables(*records)
    return table


def rows_by_name(table: Table) -> dict[str, Row]:
    return {row.method: row for row in table.rows}


def cells(method: str, scores: dict[str, list[float]], **choices: Any) -> list[RunRecord]:
    """One record per data set and seed."""
    return [
        make_record(method=method, dataset=dataset, accuracy=accuracy, seed=seed, **choices)
        for dataset, accuracies in scores.items()
        for seed, accuracy in enumerate(accuracies)
    ]


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


CHOSEN_ON_TEST = {"label": "published (chosen on test)", "chosen_on": "test", "replaced": {}}


@pytest.mark.parametrize(
    ("other", "title"),
    [
        ({"backbone": "swin_b"}, "swin_b, vtab1k, paper defaults"),
        ({"protocol": "fgvc"}, "vit_b16, fgvc, paper defaults"),
        (
            {"tuning": {"label": "tuned (budget 8, grid)"}, "options": {"lr": 1}},
            "vit_b16, vtab1k, tuned (budget 8, grid)",
        ),
        ({"hparams": CHOSEN_ON_TEST, "options": {"lr": 1}}, "vit_b16, vtab1k, published (chosen on test)"),
        ({"weights": "w2"}, "vit_b16 (backbone.digest=w2), vtab1k, paper defaults"),
        ({"options": {"train": {"epochs": 2}}}, "vit_b16, vtab1k (train.epochs=2), the methods' own options"),
        (
            {"options": {"protocol": {"name": "vtab1k", "version": 2}}},
            "vit_b16, vtab1k (protocol.version=2), paper defaults",
        ),
    ],
    ids=["backbone", "protocol", "tuned", "published", "weights", "recipe", "protocol version"],
)
@pytest.mark.parametrize("method", ["lora", "vpt"])
def test_what_cannot_be_compared_has_its_own_table(other: dict[str, Any], title: str, method: str) -> None:
    first = make_record(accuracy=0.5, options={"train": {"epochs": 100}})
    choices = {**other, "options": {"train": {"epochs": 100}, **other.get("options", {})}}
    second = make_record(method=method, accuracy=0.7, **choices)
    found = tables(first, second)
    assert sorted(table.rows[0].cells["cifar100"].mean for table in found) == [0.5, 0.7]
    assert [len(table.rows) for table in found] == [1, 1]
    [named] = [table.title for table in found if table.rows[0].cells["cifar100"].mean == 0.7]
    assert named.split(";")[0] == title


def recipe_record(method: str, lr: float, dataset: str = "digits", accuracy: float = 0.5) -> RunRecord:
    options = {
        "optim": OptimSpec(lr=lr, warmup_epochs=0.5).identity(),
        "train": {"epochs": 5, "batch_size": 16, "precision": "fp32"},
    }
    return make_record(method=method, dataset=dataset, options=options, accuracy=accuracy)


def test_a_title_says_what_was_done_and_a_changed_rate_marks_its_row() -> None:
    # linear's own rate is 0.01; the short recipe has 0.005
    records = [recipe_record("lora", 0.005), recipe_record("linear", 0.01), recipe_record("ssf", 0.002)]
    [table] = leaderboard(collect(records), shipped_options())
    assert table.title == (
        "vit_b16, vtab1k, the methods' own options; digits; short recipe: 5 epochs, batches of 16, fp32, adamw, "
        "lr 0.002 to 0.01"
    )
    assert set(frame(table)["hyperparameters"]) == {"the methods' own options"}
    rows = rows_by_name(table)
    assert {name: row.rate for name, row in rows.items()} == {"lora": "0.005", "linear": "0.01", "ssf": "0.002"}
    assert {name for name, row in rows.items() if row.changed} == {"ssf"}
    assert rows["ssf"].changed == "optim.lr=0.002 (shipped: optim.lr=0.005)"


@pytest.mark.parametrize(
    ("epochs", "batch_size", "warmup", "lr", "said"),
    [
        (2, 64, 0.5, 0.001, ""),  # train=smoke
        (1, 64, 0.5, 0.001, ""),  # train=smoke train.epochs=1
        (20, 64, 0.5, 0.001, ""),
        (4, 16, 0.5, 0.005, ""),  # train=short train.epochs=4
        (100, 64, 10.0, 0.001, ""),
        (1, 64, 0.2, 0.001, "optim.warmup_epochs=0.2 (shipped: optim.warmup_epochs=10.0)"),
        (1, 64, 0.5, 0.002, "optim.lr=0.002 (shipped: optim.lr=0.001)"),
        (4, 16, 0.2, 0.005, "optim.warmup_epochs=0.2 (shipped: optim.warmup_epochs=0.5)"),
    ],
)
def test_a_shipped_recipe_for_other_epochs_is_as_shipped(
    epochs: int, batch_size: int, warmup: float, lr: float, said: str
) -> None:
    options = {
        "optim": OptimSpec(lr=lr, warmup_epochs=warmup).identity(),
        "train": {"epochs": epochs, "batch_size": batch_size, "precision": "fp32"},
    }
    [table] = leaderboard(collect([make_record(method="lora", options=options)]), shipped_options())
    assert table.rows[0].changed == said


def test_of_a_method_that_is_not_installed_it_is_not_said_what_it_ships() -> None:
    records = [recipe_record("lora", 0.005), recipe_record("mine", 0.01)]
    [table] = leaderboard(collect(records), shipped_options())
    assert {row.method: row.changed for row in table.rows} == {"lora": "", "mine": ""}
    assert [note for note in table.notes if "not installed" in note] == [
        "mine: this method is not installed here, so what it ships is not known "
        "(PEFTBENCH_PLUGINS names the folders of plug-ins)"
    ]
    known = {**shipped_options(), "method/mine": {"optim": {"lr": 0.01}}}
    [table] = leaderboard(collect(records), known)
    assert not [note for note in table.notes if "not installed" in note] and not any(row.changed for row in table.rows)


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


def test_full_fine_tuning_is_a_reference_and_said_where_it_lies_below_linear() -> None:
    records = [
        recipe_record("full", 0.001, accuracy=0.5),
        recipe_record("linear", 0.01, accuracy=0.6),
        recipe_record("lora", 0.005, accuracy=0.7),
    ]
    [table] = leaderboard(collect(records))
    assert table.comparison.methods == ("lora", "linear")
    assert any(note.startswith("full stands below linear") for note in table.notes)


def test_a_recipe_that_a_preset_changes_per_data_set_stays_one_table() -> None:
    def record(dataset: str, batch_size: int) -> RunRecord:
        hparams = CHOSEN_ON_TEST | {"replaced": {"train.batch_size": 64}}
        return make_record(dataset=dataset, hparams=hparams, options={"train": {"batch_size": batch_size}})

    table = only_table(record("cifar100", 16), record("dtd", 32))
    assert table.title.split(";")[0] == "vit_b16, vtab1k, published (chosen on test)"
    assert table.rows[0].complete


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
