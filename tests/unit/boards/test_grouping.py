"""What stands in one table and what never does, and what a table says of the recipe behind its numbers."""

from __future__ import annotations

from typing import Any

import pytest

from peftbench.boards.leaderboard import leaderboard
from peftbench.boards.recipe import recipe
from peftbench.boards.render import frame
from peftbench.config.shipped import shipped_options
from peftbench.records.collect import collect, row
from peftbench.records.record import RunRecord
from peftbench.train.options import OptimSpec
from tests.boards import only_table, recipe_record, rows_by_name, tables
from tests.record_factory import make_record

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


def test_a_recipe_that_a_preset_changes_per_data_set_stays_one_table() -> None:
    def record(dataset: str, batch_size: int) -> RunRecord:
        hparams = CHOSEN_ON_TEST | {"replaced": {"train.batch_size": 64}}
        return make_record(dataset=dataset, hparams=hparams, options={"train": {"batch_size": batch_size}})

    table = only_table(record("cifar100", 16), record("dtd", 32))
    assert table.title.split(";")[0] == "vit_b16, vtab1k, published (chosen on test)"
    assert table.rows[0].complete


@pytest.mark.parametrize(("epochs", "said"), [((1,), "1 epoch,"), ((1, 2), "1 to 2 epochs,")])
def test_a_title_counts_epochs(epochs: tuple[int, ...], said: str) -> None:
    records = [
        make_record(seed=number, options={"train": {"epochs": number, "precision": "fp32"}}) for number in epochs
    ]
    assert recipe(row(record) for record in records)[0].startswith(said)


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
        (100, 16, 10.0, 0.001, ""),  # train.batch_size=16, as train=short has it
        (2, 8, 0.5, 0.001, ""),  # train=smoke train.batch_size=8, as train=clips has it
        (5, 16, 0.5, 0.001, "optim.lr=0.001 (shipped: optim.lr=0.005)"),
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


def test_full_fine_tuning_is_a_reference_and_said_where_it_lies_below_linear() -> None:
    records = [
        recipe_record("full", 0.001, accuracy=0.5),
        recipe_record("linear", 0.01, accuracy=0.6),
        recipe_record("lora", 0.005, accuracy=0.7),
    ]
    [table] = leaderboard(collect(records))
    assert table.comparison.methods == ("lora", "linear")
    assert any(note.startswith("full stands below linear") for note in table.notes)
