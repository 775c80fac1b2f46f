"""Base-to-new tables, tables over shots, and the published rows of few-shot CLIP."""

from __future__ import annotations

import copy
import csv
import dataclasses
from pathlib import Path

import pytest
from record_factory import make_record, record_values
from rich.console import Console

from peftbench.boards.halves import H, harmonic
from peftbench.boards.leaderboard import leaderboard
from peftbench.boards.page import page_tables
from peftbench.boards.published import FOLDER, alone
from peftbench.boards.published_halves import halves_alone, halves_beside, load_halves
from peftbench.boards.render import write
from peftbench.boards.report import write_report
from peftbench.boards.terminal import show
from peftbench.boards.texts import headers, texts
from peftbench.foundation.identity import fingerprint
from peftbench.records.collect import collect
from peftbench.records.record import RunRecord


def of_halves(dataset: str, base: float, new: float, method: str = "coop", seed: int = 1) -> RunRecord:
    values = record_values(
        method=method,
        dataset=dataset,
        group="fewshot",
        seed=seed,
        n=200,
        options={"task": {"name": "base_to_new", "version": 1}},
    )
    scores = {"h": harmonic(base, new), "base": base, "new": new, "n": 200}
    task = {"name": "base_to_new", "better": "higher", "unit": "fraction"}
    values |= {"metrics": {"val": None, "test": scores}, "primary": H, "task": task}
    values["curve"] = [{"epoch": 1, "loss": 1.0, "lr": 0.001, "val_h": None}]
    values["labels"] = {**values["labels"], "task": "base_to_new"}
    values["fingerprint"] = fingerprint(values["identity"])
    return RunRecord(**copy.deepcopy(values))


def shots_of(count: int, accuracy: float, method: str = "coop", dataset: str = "coop/dtd", seed: int = 1) -> RunRecord:
    protocol = {"title": f"fewshot_coop_{count}", "shots": count}
    return make_record(
        method=method,
        dataset=dataset,
        group="fewshot",
        accuracy=accuracy,
        seed=seed,
        protocol=f"fewshot_coop_{count}",
        options={"protocol": protocol},
    )


def test_every_published_h_is_the_harmonic_mean_of_its_pair_but_for_the_misprint() -> None:
    wrong = {
        row.label for row in load_halves() if abs(harmonic(float(row.base), float(row.new)) - float(row.h)) > 0.0101
    }
    assert wrong == {"proda (100 epochs)"}
    assert len(load_halves()) == 10


def test_mean_h_is_the_h_of_the_means_and_not_the_mean_of_each_h() -> None:
    records = [of_halves("coop/dtd", 0.8, 0.4), of_halves("coop/eurosat", 0.6, 0.8)]
    [table] = leaderboard(collect(records))
    [row] = table.rows
    assert row.flat_mean is not None
    # means 0.7 and 0.6; the mean of both H, 0.5333 and 0.6857, would be 0.6095
    assert row.flat_mean.mean == pytest.approx(2 * 0.7 * 0.6 / 1.3)
    assert row.cells["coop/dtd"].mean == pytest.approx(2 * 0.8 * 0.4 / 1.2)
    shown = dict(zip(headers(table), texts(table, headers(table))[0][1:], strict=True))
    assert (shown["base"], shown["new"], shown["flat mean"]) == ("70.00", "60.00", "64.62")
    assert any("mean base and the mean new" in note for note in table.notes)


def test_the_spread_of_h_is_over_seeds_and_its_mean_from_the_means_over_seeds() -> None:
    records = [of_halves("coop/dtd", base, 0.5, seed=seed) for seed, base in ((1, 0.7), (2, 0.9))]
    [row] = leaderboard(collect(records))[0].rows
    assert row.flat_mean is not None and row.flat_mean.n == 2
    assert row.flat_mean.mean == pytest.approx(harmonic(0.8, 0.5))
    each = harmonic(0.7, 0.5), harmonic(0.9, 0.5)
    assert row.flat_mean.std == pytest.approx(abs(each[0] - each[1]) / 2**0.5)
    assert row.beside["new"].std == 0


def test_data_sets_of_other_seeds_leave_no_spread() -> None:
    records = [of_halves("coop/dtd", 0.8, 0.4), of_halves("coop/eurosat", 0.6, 0.8, seed=2)]
    [row] = leaderboard(collect(records))[0].rows
    assert row.flat_mean is not None
    assert (row.flat_mean.std, row.flat_mean.n) == (None, 1)
    assert row.flat_mean.mean == pytest.approx(harmonic(0.7, 0.6))


def test_zero_accuracies_have_a_harmonic_mean_of_zero() -> None:
    assert (harmonic(0, 0), harmonic(0.5, 0)) == (0, 0)


def test_published_halves_stand_beside_a_whole_suite_of_their_backbone_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from peftbench.boards import published_halves

    monkeypatch.setattr(
        published_halves, "titles_of", lambda *names: ["vit_b16"] if names == ("vit_b16", "clip") else []
    )
    names = [f"coop/{number}" for number in range(11)]
    [whole] = halves_beside(leaderboard(collect([of_halves(name, 0.8, 0.7) for name in names])))
    [part] = halves_beside(leaderboard(collect([of_halves(name, 0.8, 0.7) for name in names[:10]])))
    assert (len(whole.published), part.published) == (10, ())
    shown = {row[0]: row[1:] for row in texts(whole, ["base", "new", "flat mean"])}
    assert shown["promptsrc (20 epochs) [promptsrc_repo]"] == ["84.26", "76.10", "79.97"]
    assert any("72.30" in note for note in whole.notes)


def test_published_rows_alone_can_be_written_in_every_form(tmp_path: Path) -> None:
    [table] = halves_alone()
    assert [row.method for row in table.published][:2] == ["promptsrc (20 epochs)", "maple (5 epochs)"]
    assert len(write([table], tmp_path)) == 4
    write_report(tmp_path / "page.html", [table], [], {})
    [caltech] = [t for t in alone() if t.title.startswith("rn50 clip, fewshot_clip")]
    assert caltech.published[0].cells["coop/caltech101"].mean == pytest.approx(0.92)
    [line] = csv.DictReader((FOLDER / "fewshot_clip.csv").open())
    assert sum(map(float, line["notes"].split(": ")[1].split())) / 3 == pytest.approx(92.0, abs=0.005)


def test_tables_of_several_shots_are_followed_by_one_over_shots() -> None:
    records = [
        shots_of(count, accuracy + offset, dataset=dataset, seed=seed)
        for count, accuracy in ((1, 0.3), (4, 0.5), (16, 0.6))
        for dataset, offset in (("coop/dtd", 0.0), ("coop/eurosat", 0.2))
        for seed in (1, 2)
    ]
    records += [shots_of(16, 0.7, "zero_shot", dataset) for dataset in ("coop/dtd", "coop/eurosat")]
    tables = leaderboard(collect(records))
    assert [table.protocol for table in tables] == [
        *("fewshot_coop_1", "fewshot_coop_16", "fewshot_coop_4"),
        "fewshot_coop by shots",
    ]
    table = tables[-1]
    assert [column.name for column in table.columns] == ["1 shot", "4 shots", "16 shots"]
    coop, other = sorted(table.rows, key=lambda row: row.method)
    assert [coop.cells[column.name].mean for column in table.columns] == pytest.approx([0.4, 0.6, 0.7])
    assert coop.flat_mean is not None and coop.flat_mean.mean == pytest.approx(1.7 / 3)
    assert set(other.cells) == {"16 shots"} and other.flat_mean is None
    assert page_tables(tables, {})[-1]["over_shots"] and not page_tables(tables, {})[0]["over_shots"]
    assert "coop/dtd, coop/eurosat" in table.notes[0]


def test_shots_over_other_data_sets_are_not_put_together() -> None:
    records = [shots_of(1, 0.3), shots_of(16, 0.5, dataset="coop/eurosat")]
    assert len(leaderboard(collect(records))) == 2


def untrained(record: RunRecord) -> RunRecord:
    return dataclasses.replace(record, curve=[])


def trained_by(epochs: int, method: str, accuracy: float, shots: int = 16, dataset: str = "coop/dtd") -> RunRecord:
    return make_record(
        method=method,
        dataset=dataset,
        accuracy=accuracy,
        protocol=f"fewshot_coop_{shots}",
        options={
            "protocol": {"title": f"fewshot_coop_{shots}", "shots": shots},
            "train": {"epochs": epochs, "precision": "fp32"},
            "optim": {"lr": 0.002},
        },
    )


def test_what_takes_no_step_stands_in_the_table_of_every_recipe_once_and_without_a_rate() -> None:
    zero_shot = [untrained(trained_by(epochs, "zero_shot", 0.3)) for epochs in (100, 7)]
    records = [trained_by(50, "coop", 0.5), trained_by(200, "coop", 0.6), *zero_shot]
    tables = leaderboard(collect(records))
    assert [table.protocol.partition("epochs=")[2] for table in tables] == ["200)", "50)"]
    for table in tables:
        coop, other = table.rows
        assert (other.method, other.cells["coop/dtd"].mean, other.cells["coop/dtd"].n) == ("zero_shot", 0.3, 1)
        assert (coop.rate, other.rate, len(other.records["coop/dtd"])) == ("0.002", "", 1)
    [alone] = leaderboard(collect(zero_shot))
    assert (alone.protocol, alone.recipe) == ("fewshot_coop_16", "no step of training, fp32")


def test_shots_of_one_recipe_meet_though_another_recipe_or_data_set_stands_beside_some_of_them() -> None:
    records = [trained_by(20, "coop", 0.1 * shots, shots) for shots in (1, 4)]
    # with 4 shots alone another length as well, so that only there the recipe is named; and another data set
    records += [trained_by(9, "coop", 0.9, 4), trained_by(20, "coop", 0.7, 4, "coop/eurosat")]
    records += [untrained(trained_by(20, "zero_shot", 0.3, shots)) for shots in (1, 4)]
    tables = leaderboard(collect(records))
    [table] = [table for table in tables if table.protocol.endswith("by shots")]
    assert table.protocol == "fewshot_coop (train.epochs=20) by shots" and table.short
    rows = {row.method: [row.cells[name.name].mean for name in table.columns] for row in table.rows}
    assert rows == {"coop": pytest.approx([0.1, 0.4]), "zero_shot": pytest.approx([0.3, 0.3])}
    assert "mean over coop/dtd;" in table.notes[0]
    console = Console(width=80, record=True)
    show(table, console)
    # nothing is compared over shots, so no column speaks of it; one piece holds all
    shown = console.export_text()
    assert not {"PPT", "rank", "verdict"} & set(shown.split()) and shown.count(" method ") == 1
