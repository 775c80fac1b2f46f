"""Numbers beside the primary one, and what several tasks gain over single ones."""

from __future__ import annotations

import copy
import json

import pytest
from record_factory import record_values

from peftbench.boards.dense import PRIMARY, delta_m
from peftbench.boards.leaderboard import leaderboard
from peftbench.boards.page import page_tables
from peftbench.boards.render import to_markdown
from peftbench.boards.texts import headers, texts
from peftbench.foundation.identity import fingerprint
from peftbench.foundation.metric import Metric
from peftbench.records.collect import collect
from peftbench.records.index import read_rows
from peftbench.records.record import RunRecord
from peftbench.records.store import Store
from peftbench.tasks.base import TASKS
from peftbench.tasks.several import KINDS


def record(task: dict, metrics: dict, primary: Metric, method: str = "full", seed: int = 0, **options) -> RunRecord:
    """A cell of another task than classification."""
    extra = {"task": {"version": 1, "decoder": "linear", "num_maps": 4, **task}, **options}
    values = record_values(method=method, dataset="scenes", group="dense", seed=seed, options=extra)
    values |= {
        "metrics": {"val": None, "test": {**metrics, "n": 10_000}},
        "primary": primary.name,
        "task": {"name": task["name"], "better": primary.better, "unit": primary.unit},
        "curve": [{"epoch": 1, "loss": 1.0, "lr": 0.001, f"val_{primary.name}": None}],
    }
    values["labels"] = {**values["labels"], "task": task["name"]}
    values["fingerprint"] = fingerprint(values["identity"])
    return RunRecord(**copy.deepcopy(values))


def test_the_sheets_delta_m() -> None:
    """Of 70 against 67.21 where more is better and 18 against 17.97 where less is."""
    found = delta_m({"segmentation": 70, "normals": 18}, {"segmentation": 67.21, "normals": 17.97})
    assert found == pytest.approx(1.992, abs=1e-3)
    assert delta_m({"depth": 0.9}, {"depth": 1.0}) == pytest.approx(10)


def test_primary_metrics_are_those_of_the_tasks() -> None:
    assert {name: TASKS.get(name).primary for name in PRIMARY} == PRIMARY and PRIMARY.keys() >= KINDS.keys()


def test_segmentation_shows_accuracies_and_its_decoder() -> None:
    scores = {"miou": 0.41, "mean_accuracy": 0.52, "pixel_accuracy": 0.83, "boundary_f": 0.3, "iou/sky": 0.9}
    rows = collect(record({"name": "segmentation"}, scores, Metric("miou"), seed=seed) for seed in (0, 1))
    [table] = leaderboard(rows)
    shown = dict(zip(headers(table), texts(table, headers(table))[0][1:], strict=True))
    assert shown["mAcc"] == "52.00 ± 0.00" and shown["aAcc"] == "83.00 ± 0.00" and shown["scenes"] == "41.0 ± 0.0"
    assert "decoder (M)" in shown and "head (M)" not in shown
    [page] = page_tables([table], {})
    assert page["rows"][0]["classes"] == {"sky": pytest.approx(90)}
    assert table.rows[0].by_class == {"sky": pytest.approx(90)}
    written = to_markdown(table)
    assert "| method   |   sky |" in written and "| full     |  90.0 |" in written
    classification = collect([RunRecord(**record_values())])
    [plain] = leaderboard(classification)
    assert "head (M)" in headers(plain) and not plain.rows[0].beside and classification["others"][0] is None


def test_detection_shows_the_average_precision_of_each_class() -> None:
    scores = {"ap": 0.2, "ap50": 0.4, "ap75": 0.1, "ar100": 0.3, "ap/ring": 0.25, "ap/wedge": 0.15}
    [table] = leaderboard(collect([record({"name": "detection"}, scores, Metric("ap"))]))
    assert table.rows[0].by_class == {"ring": pytest.approx(25), "wedge": pytest.approx(15)}
    assert page_tables([table], {})[0]["of_classes"] == "average precision"
    written = to_markdown(table)
    assert "Average precision of each class, percent" in written and "| full     |   25.0 |    15.0 |" in written


def test_errors_of_depth_that_differ_are_told_apart() -> None:
    scores = {"rmse": 0.1428, "abs_rel": 0.4917, "delta_1": 0.69}
    [table] = leaderboard(collect([record({"name": "depth"}, scores, PRIMARY["depth"])]))
    shown = dict(zip(headers(table), texts(table, headers(table))[0][1:], strict=True))
    assert shown["scenes"] == "0.143" and shown["flat mean"] == "0.1428"
    assert shown["abs rel"] == "0.4917" and shown["delta 1.25"] == "69.00"
    task = {"name": "several", "tasks": ["segmentation", "depth"], "weights": []}
    both = record(task, {"segmentation/miou": 0.43, "depth/rmse": 0.1373}, Metric("segmentation/miou"), "arc")
    single = record({"name": "depth"}, scores, PRIMARY["depth"])
    table = table_of([singles()[0], single, both])
    assert texts(table, ["depth rmse", "segmentation miou"]) == [["arc", "0.1373", "43.00"]]
    assert any("depth 0.1428" in note for note in table.notes)
    assert PRIMARY["depth"].shown(0.1428) == "0.1428" and PRIMARY["normals"].shown(19.128) == "19.13 degrees"


def singles() -> list[RunRecord]:
    return [
        record({"name": "segmentation"}, {"miou": 0.6721}, Metric("miou")),
        record({"name": "normals"}, {"mean_angle": 17.97}, PRIMARY["normals"]),
    ]


def several(method: str, miou: float, angle: float, **options) -> RunRecord:
    task = {"name": "several", "tasks": ["segmentation", "normals"], "weights": []}
    scores = {"segmentation/miou": miou, "normals/mean_angle": angle}
    return record(task, scores, Metric("segmentation/miou"), method, **options)


def table_of(records: list[RunRecord]):
    return next(table for table in leaderboard(collect(records)) if table.task == "several")


def test_delta_m_is_against_recorded_single_tasks() -> None:
    table = table_of([*singles(), several("lora", 0.70, 18.0)])
    [row] = table.rows
    assert row.beside["delta_m"].mean == pytest.approx(1.992, abs=1e-3)
    assert row.beside["segmentation miou"].mean == 70 and row.beside["normals mean_angle"].mean == 18
    assert any("segmentation 67.21, normals 17.97" in note for note in table.notes)


def test_delta_m_compares_saliency_by_miou_as_its_literature_does() -> None:
    single = record({"name": "saliency"}, {"max_f": 0.7, "miou": 0.6235}, PRIMARY["saliency"])
    task = {"name": "several", "tasks": ["segmentation", "saliency"], "weights": []}
    scores = {"segmentation/miou": 0.6721, "saliency/max_f": 0.9, "saliency/miou": 0.6000}
    table = table_of([singles()[0], single, record(task, scores, Metric("segmentation/miou"), "lora")])
    [row] = table.rows
    assert row.beside["delta_m"].mean == pytest.approx(100 * (60.00 / 62.35 - 1) / 2)
    assert row.beside["saliency max_f"].mean == pytest.approx(90)
    assert any("segmentation 67.21, saliency mIoU 62.35" in note for note in table.notes)


def test_there_is_no_delta_m_against_nothing() -> None:
    nothing = record({"name": "segmentation"}, {"miou": 0.0}, Metric("miou"))
    table = table_of([nothing, singles()[1], several("lora", 0.70, 18.0)])
    assert "delta_m" not in table.rows[0].beside
    assert any("full fine-tuning on segmentation alone has 0" in note for note in table.notes)


def test_without_singles_of_the_same_recipe_and_decoder_there_is_no_delta_m() -> None:
    other = record({"name": "normals", "decoder": "fcn"}, {"mean_angle": 17.97}, PRIMARY["normals"])
    table = table_of([singles()[0], other, several("lora", 0.70, 18.0)])
    assert "delta_m" not in table.rows[0].beside
    assert any("it needs method=full on normals alone" in note for note in table.notes)
    merged = record({"name": "normals", "behind_merging": True}, {"mean_angle": 17.97}, PRIMARY["normals"])
    assert "delta_m" not in table_of([singles()[0], merged, several("lora", 0.70, 18.0)]).rows[0].beside
    twice = record({"name": "normals"}, {"mean_angle": 16.0}, PRIMARY["normals"], optim={"lr": 0.1})
    table = table_of([*singles(), twice, several("lora", 0.70, 18.0)])
    assert "delta_m" not in table.rows[0].beside, "two settings of full, and nothing says which"
    assert any("method=full on normals alone is recorded in several settings" in note for note in table.notes)
    assert not any("it needs" in note for note in table.notes)


def test_what_delta_m_lacks_is_said_as_words_to_run() -> None:
    rows = []
    for seed in (2, 0):
        own = several("lora", 0.70, 18.0, seed=seed)
        words = f"task=several task.tasks=[segmentation,normals] dataset=scenes method=lora method.rank=4 seed={seed}"
        own.provenance["command"] = [*words.split(), "train=short", "train.zoom=[0.5,2.0]", "runtime.threads=1"]
        # a rate is the method's, a schedule the recipe's
        own.provenance["command"] += ["optim.lr=0.002", "optim.warmup_epochs=0", "optim.undecayed=[lora]"]
        rows.append(own)
    [note] = [note for note in table_of([singles()[0], *rows]).notes if "delta_m" in note]
    assert note.endswith(
        ": python -m peftbench -m dataset=scenes train=short 'train.zoom=[0.5,2.0]' "
        "optim.warmup_epochs=0 method=full task=normals seed=0,2"
    )
    rows[1].provenance["command"] = "anything that stands in a file"
    rows[0].provenance["command"] = [1, "\x1b[2J"]
    [note] = [note for note in table_of([singles()[0], *rows]).notes if "delta_m" in note]
    assert note.endswith("recipe and decoder")


def test_a_table_of_validation_scores_shows_no_test_score() -> None:
    values = json.loads(record({"name": "segmentation"}, {"miou": 0.4, "mean_accuracy": 0.5}, Metric("miou")).to_json())
    values["metrics"]["val"] = {"miou": 0.3, "n": 200}
    values["data"]["splits"]["val"] = {"name": "val200", "n": 200, "digest": "d"}
    [table] = leaderboard(collect([RunRecord(**values)]), split="val")
    assert not table.rows[0].beside


def test_numbers_of_other_tasks_pass_through_the_index(tmp_path) -> None:
    store = Store(tmp_path)
    store.put(record({"name": "segmentation"}, {"miou": 0.4, "mean_accuracy": 0.5}, Metric("miou")))
    for _ in range(2):
        rows, skipped = read_rows(store)
        assert not skipped and json.loads(rows["others"][0])["mean_accuracy"] == 0.5
        assert "mAcc" in headers(leaderboard(rows)[0])


def test_tables_of_maps_say_what_one_crop_costs() -> None:
    [table] = leaderboard(collect([record({"name": "segmentation"}, {"miou": 0.4}, Metric("miou"))]))
    shown = dict(zip(headers(table), texts(table, headers(table))[0][1:], strict=True))
    forward = table.rows[0].forward_flops_per_image
    assert forward is not None and shown["crop GFLOPs"] == f"{forward / 1e9:.2f}"
    [plain] = leaderboard(collect([RunRecord(**record_values())]))
    assert "crop GFLOPs" not in headers(plain)
