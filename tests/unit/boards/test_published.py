"""Published figures: whole, attributed, beside measured ones and never mixed with them; and the comparison."""

from __future__ import annotations

import csv
import dataclasses
import math
from pathlib import Path

import pandas as pd
import pytest

from peftbench.boards.leaderboard import leaderboard
from peftbench.boards.published import FOLDER, alone, backbones_of, beside, load_published, load_sources
from peftbench.boards.render import to_markdown
from peftbench.boards.table import Score, Table
from peftbench.boards.texts import label, text
from peftbench.cli.commands.compare import differences, main, uncertainty
from peftbench.data.sources.clips import ClipFiles
from peftbench.records.collect import collect
from peftbench.records.record import RunRecord
from peftbench.records.store import Store
from tests.record_factory import make_record

ROOT = Path(__file__).resolve().parents[3]
VIT = "vit_b16_in21k"
FIGURES = ("vtab1k", "fgvc", "published_means", "fewshot_clip", "base_to_new", "video", "dense")


def measured(dataset: str, accuracies: list[float], method: str = "lora", backbone: str = VIT) -> list[RunRecord]:
    return [
        make_record(
            method=method, backbone=backbone, dataset=dataset, group="natural", accuracy=value, seed=seed, n=10_000
        )
        for seed, value in enumerate(accuracies)
    ]


def only_table(records: list[RunRecord]) -> Table:
    [table] = beside(leaderboard(collect(records)))
    return table


def test_every_source_is_described() -> None:
    used = {line["source"] for name in FIGURES for line in csv.DictReader((FOLDER / f"{name}.csv").open())}
    assert used == set(load_sources())


def test_names_stand_for_backbones_methods_and_data_sets_that_exist() -> None:
    clips = {ClipFiles(form="kinetics", sampling="dense").label, ClipFiles(form="hmdb51").label}
    for line in csv.DictReader((FOLDER / "names.csv").open()):
        if line["measured"] in clips:
            continue
        folder = {"backbone": "backbone", "method": "method", "dataset": "dataset/vtab"}[line["kind"]]
        assert (ROOT / "configs" / folder / f"{line['measured']}.yaml").is_file(), line
    vtab = {row for line in load_published() if line.benchmark == "vtab1k" for row in line.figures}
    assert vtab == {f"vtab/{path.stem}" for path in (ROOT / "configs/dataset/vtab").glob("*.yaml")}


def test_printed_means_are_the_kind_that_they_are_said_to_be() -> None:
    """Each printed mean of the second collection follows from its row's cells, flat or by groups as its line says."""
    tables = {table.title: table for table in alone()}
    rows = {(source, row.method): row for table in tables.values() for row in table.published for source in row.sources}
    checked = 0
    for line in csv.DictReader((FOLDER / "published_means.csv").open()):
        row = rows.get((line["source"], f"{line['method']} ({line['variant']})" if line["variant"] else line["method"]))
        if line["source"] not in ("psoft_iclr26", "hyperadapter_2026") or row is None or not row.cells:
            continue
        mean = row.flat_mean if line["mean_kind"] == "flat" else row.mean_of_groups
        assert mean is not None and 100 * mean.mean == pytest.approx(float(line["published_mean"]), abs=0.06), line
        checked += 1
    assert checked == 10


def test_rows_of_which_only_a_mean_is_known_stand_under_its_name_and_doubts_are_marked() -> None:
    [table] = [t for t in alone() if t.title.startswith("vit_b16 imagenet21k_sup, vtab1k")]
    rows = {label(row): row for row in table.published}
    pro_vpt = rows["pro_vpt [pro_vpt_iccv25_secondary] ‡"]
    assert pro_vpt.mean_of_groups is not None and pro_vpt.mean_of_groups.mean == pytest.approx(0.78)
    assert pro_vpt.flat_mean is None and pro_vpt.cells == {} and text(table, pro_vpt, "flat mean") == "—"
    assert "dora (r=8) [psoft_iclr26] ‡" in rows and "e2vpt [hyperadapter_2026]" in rows
    assert any(note.startswith("‡: the checkpoint") for note in table.notes)
    assert any("trust: means only, from a summary written by others" in note for note in table.notes)
    assert "" not in {source.trust for source in load_sources().values()}


def test_rows_of_clips_name_their_views_and_stand_beside_the_backbones_here() -> None:
    rows = {(row.label, row.backbone): row for row in load_published() if row.benchmark == "video"}
    best = rows["st_adapter (12x384, 8x3x1)", "vit_b16"]
    assert best.figures == {"kinetics_t8s16": "82.2"} and backbones_of(best) == ["clip_b16"]
    assert rows["adaptformer", "vit_b16"].figures == {"ssv2": "59.02", "hmdb51_split1": "55.69"}
    assert backbones_of(rows["adaptformer", "vit_b16"]) == ["videomae_b16"]
    [table] = [t for t in alone() if t.title.startswith("vit_b16 openai_clip, video")]
    assert {column.dataset for column in table.columns} == {"kinetics_t8s16", "ssv2", "k700", "diving48"}
    assert len(table.published) == sum(
        row.backbone == "vit_b16" and row.pretraining == "openai_clip" for row in rows.values()
    )
    beside = {row.method: row.top5_accuracy for row in table.published if row.top5_accuracy is not None}
    assert beside == pytest.approx({"aim (8x3x1)": 0.963, "aim (16x3x1)": 0.966, "aim (32x3x1)": 0.967})
    shown = to_markdown(table)
    assert "top-5" in shown and "96.3" in shown and "order gap" not in shown


def test_rows_of_segmentation_stand_beside_segmentation_alone() -> None:
    dense = [row for row in load_published() if row.benchmark == "dense"]
    rows = {row.method: row for row in dense if row.backbone == "swin_l"}
    assert len(rows) == 11 and rows["linear"].figures == {"ade20k": "46.84"} and rows["mona"].task == "segmentation"
    [table] = [t for t in alone() if t.title.startswith("segmentation (miou), swin_l imagenet22k_sup, dense")]
    empty = dataclasses.replace(table, backbone="swin_l_in22k", published=(), notes=())
    assert [len(t.published) for t in beside([empty, dataclasses.replace(empty, task="")])] == [11, 0]
    # a test at several scales is another figure of the same model
    tests = {row.variant: row.figures["ade20k"] for row in dense if backbones_of(row) == ["vit_b16_augreg_in21k"]}
    assert tests == {"backbone trained": "51.9", "backbone trained, several scales and mirrored": "52.5"}


def test_rows_of_boxes_stand_beside_detection_alone() -> None:
    boxes = [row for row in load_published() if row.benchmark == "boxes"]
    assert all(row.task == "detection" and row.figures.keys() == {"coco"} for row in boxes)
    rows = {row.method: row.figures["coco"] for row in boxes if backbones_of(row) == ["swin_b_in22k"]}
    assert len(rows) == 11 and (rows["full"], rows["linear"], rows["mona"]) == ("51.9", "43.5", "53.4")
    deit = [row for row in boxes if (row.backbone, row.pretraining) == ("vit_b16", "imagenet1k_deit")]
    assert {row.variant.split(" 3x")[0]: row.figures["coco"] for row in deit} == {
        "mask rcnn": "49.6",
        "cascade mask rcnn": "52.1",
    }
    assert len(boxes) == 11 + 12
    [table] = [t for t in alone() if t.title.startswith("detection (ap), swin_b imagenet22k_sup, boxes")]
    empty = dataclasses.replace(table, backbone="swin_b_in22k", published=(), notes=())
    others = [dataclasses.replace(empty, task=task) for task in ("segmentation", "")]
    assert [len(t.published) for t in beside([empty, *others])] == [11, 0, 0]


def test_copies_of_one_row_are_one_row() -> None:
    rows = [row for row in load_published() if row.method == "lora" and VIT in backbones_of(row)]
    # 67.1 on CIFAR-100 and 91.4 on Caltech101 stand in six tables
    [common] = [row for row in rows if row.figures.get("vtab/cifar100") == "67.1"]
    assert {"vpetl_bench", "noah_repo", "convpass_paper", "hydra_repo"} <= set(common.sources)
    assert len({tuple(row.figures.values()) for row in rows}) == len(rows)


def test_printed_means_follow_from_the_cells() -> None:
    [table] = [t for t in alone() if t.title.startswith("vit_b16 imagenet21k_sup, vtab1k")]
    rows = {row.method: row for row in table.published if "vpetl_bench" in row.sources}
    # flat means as printed by V-PETL Bench
    for method, mean in {"full": 65.57, "linear": 52.94, "lora": 72.25, "ssf": 73.10, "bitfit": 62.05}.items():
        flat = rows[method].flat_mean
        assert flat is not None
        assert round(100 * flat.mean, 2) == pytest.approx(mean, abs=0.011)


def test_published_rows_stand_beside_and_enter_nothing() -> None:
    records = measured("vtab/cifar100", [0.70, 0.71]) + measured("vtab/cifar100", [0.60, 0.61], "bitfit")
    [plain] = leaderboard(collect(records))
    table = only_table(records)
    assert (table.rows, table.comparison) == (plain.rows, plain.comparison)
    assert all(row.sources and set(row.cells) == {"vtab/cifar100"} for row in table.published)
    assert any(
        "vpetl_bench" in row.sources and row.cells["vtab/cifar100"].mean == pytest.approx(0.671)
        for row in table.published
    )
    assert any("published by vpetl_bench" in note and "best test epoch" in note for note in table.notes)


@pytest.mark.parametrize(("backbone", "dataset"), [("vit_micro", "vtab/cifar100"), (VIT, "cifar100"), (VIT, "digits")])
def test_other_backbones_and_data_sets_get_no_published_rows(backbone: str, dataset: str) -> None:
    assert only_table(measured(dataset, [0.7], backbone=backbone)).published == ()


def test_uncertainty_by_hand() -> None:
    # t with 2 degrees of freedom is 4.303; three measured seeds against one published; half of a tenth for rounding
    expected = 4.3027 * 0.5 * math.sqrt(1 / 3 + 1) + 0.05
    assert uncertainty(Score(0.7, 0.005, 3), "71.2", 1) == pytest.approx(expected, rel=1e-4)
    assert uncertainty(Score(0.7, 0.005, 3), "71.23", 5) == pytest.approx(
        4.3027 * 0.5 * math.sqrt(1 / 3 + 1 / 5) + 0.005, rel=1e-4
    )
    assert uncertainty(Score(0.7, None, 1), "71.2", 1) is None


def test_only_cells_beyond_their_uncertainty_differ() -> None:
    records = [
        *measured("vtab/cifar100", [0.670, 0.671, 0.672]),
        *measured("vtab/caltech101", [0.80, 0.81, 0.80]),
        *measured("vtab/dtd", [0.5]),
    ]
    found = {
        item.dataset: item
        for item in differences(leaderboard(collect(records)), load_published())
        if "vpetl_bench" in item.sources
    }
    assert {name: item.verdict for name, item in found.items()} == {
        "vtab/cifar100": "within",
        "vtab/caltech101": "differs",
        "vtab/dtd": "unknown",
    }
    assert found["vtab/caltech101"].difference == pytest.approx(80.333 - 91.4, abs=0.01)


def test_the_command_lists_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path)
    for record in [*measured("vtab/caltech101", [0.80, 0.81, 0.80]), *measured("vtab/cifar100", [0.670, 0.671, 0.672])]:
        store.put(record)
    out = tmp_path / "compare.csv"
    out.write_text("backbone,protocol,dataset,method,measured\nof another time\n")
    assert main(["--results", str(tmp_path), "--source", "vpetl_bench", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "2 pairs of a measured cell and a published figure: 1 differ" in shown
    assert "vtab/caltech101" in shown and "vtab/cifar100" not in shown
    assert sorted(pd.read_csv(out)["verdict"]) == ["differs", "within"]


def test_what_else_may_lie_behind_a_difference_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"train": {"epochs": 5, "batch_size": 16}, "optim": {"name": "adamw", "lr": 0.02, "warmup_epochs": 0.5}}
    store = Store(tmp_path)
    for seed in range(3):
        own = {"dataset": "vtab/caltech101", "group": "natural", "backbone": VIT, "options": options}
        store.put(make_record(method="lora", remark="scaled otherwise", accuracy=0.8 + seed / 1000, seed=seed, **own))
    out = tmp_path / "compare.csv"
    assert main(["--results", str(tmp_path), "--source", "vpetl_bench", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "lora † §" in shown and "\n† lora: scaled otherwise\n" in shown
    assert "measured by: short recipe: 5 epochs" in shown and "§ lora: optim.lr=0.02 (shipped: optim.lr=0.005)" in shown
    [line] = pd.read_csv(out).to_dict("records")
    assert line["adapted"] == "scaled otherwise" and line["changed"].startswith("optim.lr=0.02")


def test_nothing_to_compare_is_said(command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Store(tmp_path).put(make_record(backbone="vit_micro"))
    assert command("compare", "--results", tmp_path) == 2
    said = capsys.readouterr().err
    assert said.startswith("peftbench: none of the 1 records") and "they are of vit_micro, and figures are of " in said
    assert "vit_b16_in21k, " in said and "backbone=vit_b16_in21k method=lora dataset=vtab/caltech101" in said
    cell = make_record(backbone="vit_b16_in21k", method="lora", dataset="vtab/caltech101", group="natural")
    Store(tmp_path / "beside").put(cell)
    assert command("compare", "--results", tmp_path / "beside") == 0
    assert command("compare", "--results", tmp_path / "nowhere") == 2
    assert "no records under" in capsys.readouterr().err
