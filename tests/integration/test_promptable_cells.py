"""Cells with boxes as prompts, on the embedded segmenter and on a plain backbone."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from peftbench.adapters.sharing import with_adapter
from peftbench.backbones.sam_micro import NAME
from peftbench.backbones.source import embedded_file
from peftbench.backbones.weights import load_weights
from peftbench.data.maps import class_colours
from peftbench.data.sources.scenes import CLASSES, scene
from peftbench.records.store import Store
from peftbench.tasks.promptable import PromptableMeter
from peftbench.train.batches import Batches
from peftbench.train.evaluate import evaluate

FAST = ["dataset=scenes", "dataset.size=32", "train=smoke", "train.batch_size=100", "runtime.progress=false"]


@pytest.mark.slow
@pytest.mark.thorough
def test_regions_on_a_plain_backbone(run, results):
    words = ["task=region", "task.width=64", "method=linear"]
    assert run(*FAST, *words, fast=False) == 0
    [record] = Store(results).all()
    assert record.primary == "region_accuracy" and record.params["method"] == 0
    # twenty steps of a fresh decoder
    first, last = (epoch["loss"] for epoch in record.curve)
    assert last < first - 0.2 and {"miou", "dice", "iou/ring"} < set(record.metrics["test"])
    sheet = results / "sheet.png"
    where = ("--results", str(results), "--out", str(sheet), "--rows", "1")
    assert run("show", record.fingerprint, *where, fast=False) == 0
    shown = np.asarray(Image.open(sheet))[24 : 24 + 128, 8 : 8 + 4 * 130].reshape(128, 4, 130, 3)[:, :, :128]
    drawn = scene(0, 1000)
    # image, prompts, truth and prediction, each pixel four times as large
    assert (shown[::4, 0, ::4] == drawn.image).all()
    assert (shown[2::4, 2, 2::4] == class_colours(5)[drawn.class_map]).all()
    for number in np.unique(drawn.class_map[(drawn.class_map > 0) & (drawn.class_map < 255)]):
        rows, columns = np.nonzero(drawn.class_map == number)
        corner = shown[4 * rows.max() + 3, 1, 4 * columns.max() + 3]
        # a box that was drawn later may lie over it
        assert (corner == class_colours(5)[1:]).all(axis=1).any()
    assert {tuple(colour) for colour in shown[2::4, 3, 2::4].reshape(-1, 3)} <= {*map(tuple, class_colours(5))}


@pytest.mark.slow
def test_the_embedded_segmenter_from_words_to_a_file_for_others(run, results, capsys, tmp_path):
    assert run(*FAST, "backbone=sam_micro", "task=promptable", "method=cobot_lora", fast=False) == 0
    [record] = Store(results).all()
    # as it was pretrained, on boxes and scenes that it never saw
    assert record.primary == "miou" and record.metrics["test"]["miou"] > 0.6
    assert run("evaluate", record.fingerprint, "--results", str(results), fast=False) == 0
    assert "reproduced exactly" in capsys.readouterr().out

    target = tmp_path / "boxes.safetensors"
    assert run("export", record.fingerprint, str(target), "--results", str(results), fast=False) == 0
    card = target.with_suffix(".md").read_text()
    assert 'embedded_file("sam_micro")' in card and "masks `[batch, boxes, 32, 32]`" in card
    net = timm.create_model(NAME, num_classes=0)
    load_weights(net, embedded_file("sam_micro"))
    scenes = [scene(0, number) for number in range(1000, 2000)]
    images, maps = np.stack([s.image for s in scenes]), np.stack([s.class_map for s in scenes])
    batches = Batches(
        {"image": images}, {"class_map": maps}, batch_size=250, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    with torch.no_grad():
        found = evaluate(with_adapter(net, target), batches, PromptableMeter(CLASSES[1:], 1)).metrics
    assert found["miou"] == pytest.approx(record.metrics["test"]["miou"], abs=1e-4)

    assert run("export", record.fingerprint, str(tmp_path / "a.pt2"), "--results", str(results), fast=False) == 3
    assert "also asks for boxes" in capsys.readouterr().err
