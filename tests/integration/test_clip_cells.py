"""Cells on clips, from words to leaderboard."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from peftbench.records.store import Store


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """Frame folders of two classes: grey that rises and grey that falls."""
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for part, count in (("train", 4), ("test", 3)):
        for number in range(count):
            for label in (0, 1):
                folder = tmp_path / "frames" / f"{part}{number}{label}"
                folder.mkdir(parents=True)
                for moment in range(3):
                    shade = 40 + 60 * (moment if label else 2 - moment) + 5 * number
                    Image.new("RGB", (40, 32), (shade, shade, 90)).save(folder / f"img_{moment + 1:05}.png")
                lists[part].append(f"{folder.name} 3 {label}")
    named = []
    for part, lines in lists.items():
        (tmp_path / f"{part}.txt").write_text("\n".join(lines))
        named.append(f"dataset.{part}_list={tmp_path / part}.txt")
    options = ["dataset.frames=3", "dataset.template=img_{:05}.png", "dataset.title=grey", "protocol=full"]
    return ["dataset=clips", f"dataset.root={tmp_path / 'frames'}", *named, *options]


@pytest.mark.parametrize("method", ["st_adapter", "linear"])
def test_a_cell_of_clips_is_recorded_restored_and_tabled(run, results, capsys, words, method):
    assert (
        run(f"method={method}", *words, "train=smoke", "train.batch_size=4", "runtime.progress=false", fast=False) == 0
    )
    (record,) = Store(results).all()
    test = record.metrics["test"]
    assert test["n"] == 6 and test["order_gap"] == pytest.approx(test["accuracy"] - test["accuracy_shuffled"])
    assert record.labels["dataset"] == "grey_t3" and record.labels["group"] == "video"
    assert record.identity["dataset"]["frames"] == 3 and "root" not in record.identity["dataset"]
    if method == "linear":
        assert test["order_gap"] == 0
    # FLOPs are of a clip: three times those of an image
    assert record.cost["forward_flops_per_image"] > 3 * 160e6
    capsys.readouterr()
    where = [word for word in words if word.startswith(("dataset.root", "dataset.train_list", "dataset.test_list"))]
    assert run("evaluate", record.fingerprint, *where, "--results", str(results), fast=False) == 0
    assert "reproduced exactly" in capsys.readouterr().out
    sheet = results / "strips.png"
    assert run("show", record.fingerprint, *where, "--results", str(results), "--out", str(sheet), fast=False) == 0
    # a strip for each of the six test clips
    assert Image.open(sheet).size[1] == 6 * (64 + 16 + 8) + 8 and "strips.png: " in capsys.readouterr().out
    assert run("export", record.fingerprint, "x.safetensors", *where, "--results", str(results), fast=False) == 3
    assert "export writes models of images and this one is of clips" in capsys.readouterr().err
    assert run("leaderboard", "--results", str(results), fast=False) == 0
    table = (results / "leaderboard" / "leaderboard.md").read_text()
    assert "order gap" in table and "GFLOPs and images per second are of one clip and view" in table


def test_a_head_that_drops_features_is_another_cell_and_evaluates_as_any(run, results, capsys, words):
    """On features that are kept through all epochs as well."""
    common = ["method=linear", *words, "train=smoke", "train.batch_size=4", "runtime.progress=false"]
    for dropped in ([], ["train.head_dropout=0.5"]):
        assert run(*common, *dropped, fast=False) == 0
    whole, half = sorted(Store(results).all(), key=lambda record: "head_dropout" in record.identity["train"])
    assert "head_dropout" not in whole.identity["train"] and half.identity["train"]["head_dropout"] == 0.5
    assert whole.adapter["sha256"] != half.adapter["sha256"]
    where = [word for word in words if word.startswith(("dataset.root", "dataset.train_list", "dataset.test_list"))]
    capsys.readouterr()
    assert run("evaluate", half.fingerprint, *where, "--results", str(results), fast=False) == 0
    assert "reproduced exactly" in capsys.readouterr().out


def test_views_of_test_clips_are_recorded_and_reproduced(run, results, capsys, words):
    views = ["dataset.sampling=dense", "dataset.stride=1", "dataset.frames=2", "protocol.views=2"]
    crops = ["protocol.resize=crop", "protocol.crops=3"]
    words = [word for word in words if not word.startswith("dataset.frames")]
    assert run("method=linear", *words, *views, *crops, "train=smoke", "runtime.progress=false", fast=False) == 0
    (record,) = Store(results).all()
    assert record.metrics["test"]["n"] == 6 and record.identity["protocol"]["views"] == 2
    where = [word for word in words if word.startswith(("dataset.root", "dataset.train_list", "dataset.test_list"))]
    assert run("evaluate", record.fingerprint, *where, "--results", str(results), fast=False) == 0
    assert "reproduced exactly" in capsys.readouterr().out


def test_a_method_across_frames_is_not_applicable_to_images(run, capsys):
    assert run("method=aim", "dataset=digits") == 3
    assert (
        "aim works across the frames of clips; this data has images (dataset=moving_shapes)" in capsys.readouterr().err
    )
