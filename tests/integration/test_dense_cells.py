"""Cells that predict maps, from words to pictures and tables."""

from __future__ import annotations

import json
import re
import shlex

import numpy as np
import pytest
from PIL import Image

from peftbench.boards.dense import delta_m
from peftbench.data.maps import class_colours
from peftbench.data.sources.scenes import scene
from peftbench.records.store import Store

# four patches an image: what is tested is the line
TINY = ["backbone=timm", "backbone.model=vit_tiny_patch16_224", "backbone.weights=none", "backbone.img_size=32"]
SCENES = ["dataset=scenes", "dataset.size=16", *TINY]


@pytest.fixture
def cell(run):
    """`cell("task=...")` on tiny scenes."""
    fast = ["train=smoke", "train.batch_size=250", "runtime.progress=false"]
    return lambda *words: run(*SCENES, *fast, *words, fast=False)


def by_task(results) -> dict:
    return {record.task["name"]: record for record in Store(results).all()}


def test_segmentation_from_words_to_a_picture_and_a_table(cell, run, results, capsys, tmp_path):
    assert cell("task=segmentation", "method=lora", "train.augment=scale_crop_flip", "train.photometric=true") == 0
    record = by_task(results)["segmentation"]
    assert f"test miou {record.metrics['test']['miou']:.2%} of 1,000" in capsys.readouterr().out
    # maps behind four of twelve blocks, side by side
    assert record.params["head"] == 4 * 192 * (2 + 5) + 5 and record.params["method"] == 12 * 2 * 8 * 384
    predictions = np.load(Store(results).predictions_path(record.fingerprint), allow_pickle=False)
    assert predictions.shape == (1000, 32, 32) and predictions.max() < 5
    assert run("evaluate", record.fingerprint, "--results", str(results), fast=False) == 0
    assert "reproduced exactly" in capsys.readouterr().out
    sheet = tmp_path / "sheet.png"
    words = ("--results", str(results), "--out", str(sheet), "--rows", "2")
    assert run("show", record.fingerprint, *words, fast=False) == 0
    shown = np.asarray(Image.open(sheet))
    # image, truth and prediction, each 128 px wide and 2 px apart, of maps of 32 px
    said = shown[24 + 2 : 24 + 128 : 4, 8 + 2 * 130 + 2 : 8 + 2 * 130 + 128 : 4]
    assert (said == class_colours(5)[predictions[0]]).all()
    capsys.readouterr()
    assert run("predict", record.fingerprint, str(sheet), "--results", str(results), fast=False) == 2
    said_of_it = f"peftbench: {record.fingerprint} was trained for segmentation; only classifiers predict classes\n"
    assert capsys.readouterr().err == said_of_it
    assert run("show", record.fingerprint, "--results", str(results), "--keep", "--rows", "2", fast=False) == 0
    assert Store(results).picture_path(record.fingerprint).read_bytes() == sheet.read_bytes()
    assert run("leaderboard", "--results", str(results), fast=False) == 0
    table = (results / "leaderboard" / "leaderboard.md").read_text()
    assert "segmentation (miou), " in table and " decoder (M) |" in table and " mAcc |" in table


def test_several_tasks_stand_beside_single_ones(cell, run, results, capsys):
    assert cell("task=several", "task.tasks=[depth,normals]", "method=full", "train.augment=flip") == 0
    assert run("leaderboard", "--results", str(results), fast=False) == 0
    written = (results / "leaderboard" / "leaderboard.json").read_text()
    [advice] = re.findall(r"alone, with the same data, recipe and decoder: python -m peftbench (-m .*?)\"", written)
    # what stands there is done
    assert run(*shlex.split(advice), "runtime.progress=false", fast=False) == 0
    records = by_task(results)
    assert records.keys() == {"several", "depth", "normals"}
    several = records["several"]
    assert several.primary == "depth/rmse" and several.metric.better == "lower" and several.predictions is None
    singles = {task: records[task].score("test") for task in ("depth", "normals")}
    reached = {"depth": several.score("test"), "normals": several.metrics["test"]["normals/mean_angle"]}
    capsys.readouterr()
    assert run("leaderboard", "--results", str(results), fast=False) == 0
    tables = json.loads((results / "leaderboard" / "leaderboard.json").read_text())["tables"]
    [row] = next(table["rows"] for table in tables if table["title"].startswith("several"))
    assert row["beside"]["delta_m"]["mean"] == pytest.approx(delta_m(reached, singles))
    assert run("evaluate", several.fingerprint, "--results", str(results), fast=False) == 0
    assert "reproduced exactly" in capsys.readouterr().out


def test_detection_from_words_to_a_picture_and_a_table(cell, run, results, capsys, tmp_path):
    assert cell("task=detection", "method=lora", "train.augment=scale_crop_flip") == 0
    record = by_task(results)["detection"]
    assert f"test ap {record.metrics['test']['ap']:.2%} of 1,000" in capsys.readouterr().out
    assert record.metrics["test"].keys() > {"ap50", "ap75", "ar100", "ap/sphere"}
    assert record.params["method"] == 12 * 2 * 8 * 384 and record.params["head"] > 4 * 192**2
    predictions = np.load(Store(results).predictions_path(record.fingerprint), allow_pickle=False)
    assert predictions.shape == (1000, 100, 6)
    assert run("evaluate", record.fingerprint, "--results", str(results), fast=False) == 0
    assert "reproduced exactly" in capsys.readouterr().out
    sheet = tmp_path / "sheet.png"
    words = ("--results", str(results), "--out", str(sheet), "--rows", "1")
    assert run("show", record.fingerprint, *words, fast=False) == 0
    # true boxes are drawn around the image, at 128 px; the scene has 16
    truth = np.asarray(Image.open(sheet))[24 : 24 + 128, 8 + 130 : 8 + 2 * 130 - 2]
    *_, last = [row for row in scene(0, 1000, 16).boxes if row.any()]
    left, top, right, _ = (8 * last[:4]).astype(int)
    assert (truth[top, left:right] == (class_colours(5)[int(last[4])] if not last[5] else 150)).all()
    assert run("leaderboard", "--results", str(results), fast=False) == 0
    table = (results / "leaderboard" / "leaderboard.md").read_text()
    assert "detection (ap), " in table and " decoder (M) |" in table and " AP50 |" in table


def test_what_does_not_go_together_is_said(cell, capsys):
    assert cell("method=lora") == 2
    assert "task=classification needs label" in capsys.readouterr().err
    assert cell("task=segmentation", "method=vqt") == 3
    assert "there are no maps to train" in capsys.readouterr().err
    assert cell("task=segmentation", "method=gps") == 3
    assert "gps looks at the class of each image" in capsys.readouterr().err
    assert cell("task=segmentation", "method=bi_lora", "method.head_bits=1") == 3
    assert "bi_lora quantises the linear head of a classifier" in capsys.readouterr().err
    assert cell("task=segmentation", "train.compile=true") == 2
    assert "set train.compile=false" in capsys.readouterr().err
    assert cell("task=detection", "train.compile=true") == 2
    assert "set train.compile=false" in capsys.readouterr().err
    assert cell("task=promptable", "task.width=64", "train.compile=true") == 2
    assert "set train.compile=false" in capsys.readouterr().err
    assert cell("task=detection", "protocol.test_flip=true") == 2
    assert "with task=detection leave them out" in capsys.readouterr().err
    assert cell("task=segmentation", "train.mixup=0.2") == 2
    assert "set train.mixup=0" in capsys.readouterr().err
    assert cell("task=segmentation", "task.decoder=upernet", "task.num_maps=3") == 2
    assert "set task.num_maps=4" in capsys.readouterr().err
