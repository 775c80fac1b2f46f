"""Segmentation sets as files: every known form, and what is said of broken ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from peftbench.data.base import Source
from peftbench.data.pixels.cache import load_split
from peftbench.data.pixels.transform import ImageTransform
from peftbench.data.sources.mask_forms import CITYSCAPES, VOC
from peftbench.data.sources.masks import Masks
from peftbench.data.verify import verify
from peftbench.foundation.errors import BadInput, MissingInput, PeftbenchError

SIZE = (12, 8)


def put_image(path: Path, seed: int, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def put_mask(path: Path, values: list[int], size: tuple[int, int] = SIZE, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.fromarray(np.resize(np.array(values, np.uint8), (size[1], size[0])))
    if palette:
        mask = mask.convert("P")
        mask.putdata(np.resize(np.array(values, np.uint8), size[0] * size[1]).tolist())
    mask.save(path)


def folders(root: Path, parts: tuple[str, ...] = ("train", "val", "test")) -> Path:
    for part in parts:
        for number in range(4):
            put_image(root / f"images/{part}/{part}{number}.jpg", number)
            put_mask(root / f"annotations/{part}/{part}{number}.png", [0, 1, 2, 255], palette=number % 2 == 0)
    (root / "classes.txt").write_text("road\nsky\ncar\n")
    return root


def first_map(source: Source, part: str = "trainval") -> np.ndarray:
    return source.split(part).read_map("class_map", 0)


def test_folders_with_images_and_annotations(tmp_path: Path) -> None:
    spec = Masks(root=str(folders(tmp_path)))
    source = spec.open()
    assert source.class_names == ("road", "sky", "car") and source.targets == ("class_map",)
    assert [len(source.split(name)) for name in ("train", "val", "trainval", "test")] == [4, 4, 8, 4]
    for index in (0, 1):
        assert source.split("trainval").read_map("class_map", index).ravel()[:5].tolist() == [0, 1, 2, 255, 0]
    split = load_split(source, "trainval", ImageTransform(6), tmp_path / "cache")
    assert split.images.shape == (8, 6, 6, 3) and split.targets["class_map"].shape == (8, 6, 6)
    assert set(np.unique(split.targets["class_map"])) <= {0, 1, 2, 255}
    assert verify(source).problems == []


def test_a_changed_mask_is_another_data_set(tmp_path: Path) -> None:
    spec = Masks(root=str(folders(tmp_path)))
    before, digest = spec.revision(), spec.open().split("train").content_digest()
    put_mask(tmp_path / "annotations/train/train0.png", [1, 1, 2])
    assert Masks(root=str(tmp_path)).revision() != before
    assert spec.open().split("train").content_digest() != digest
    (tmp_path / "classes.txt").write_text("road\nsky\ntruck\n")
    assert len({before, Masks(root=str(tmp_path)).revision()}) == 2


def test_without_validation_images_a_tenth_of_the_training_images_validates(tmp_path: Path) -> None:
    source = Masks(root=str(folders(tmp_path, ("train", "test")))).open()
    assert [len(source.split(name)) for name in ("train", "val", "trainval")] == [3, 1, 4]
    assert source.split("val").read_map("class_map", 0).shape == (8, 12)


def test_segnets_camvid(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        put_image(tmp_path / part / "a.png", 1)
        put_mask(tmp_path / f"{part}annot" / "a.png", [0, 10, 11])
    source = Masks(root=str(tmp_path), form="camvid").open()
    assert source.num_classes == 11 and first_map(source).ravel()[:3].tolist() == [0, 10, 255]


def test_ade20k(tmp_path: Path) -> None:
    for part in ("training", "validation"):
        put_image(tmp_path / f"images/{part}/ADE_1.jpg", 1)
        put_mask(tmp_path / f"annotations/{part}/ADE_1.png", [0, 1, 150])
    lines = ["Idx\tRatio\tTrain\tVal\tStuff\tName", *(f"{i}\t0.1\t1\t1\t0\tthing{i}, other" for i in range(1, 151))]
    (tmp_path / "objectInfo150.txt").write_text("\n".join(lines))
    source = Masks(root=str(tmp_path), form="ade20k").open()
    assert source.num_classes == 150 and source.class_names[149] == "thing150"
    assert first_map(source).ravel()[:3].tolist() == [255, 0, 149]
    put_mask(tmp_path / "annotations/training/ADE_1.png", [0, 151])
    with pytest.raises(BadInput, match=r"ADE_1\.png: its class_map holds 151; it takes 0 to 149"):
        load_split(source, "trainval", ImageTransform(6), tmp_path / "cache")


def test_pascal_voc(tmp_path: Path) -> None:
    for stem in ("2007_1", "2007_2"):
        put_image(tmp_path / f"JPEGImages/{stem}.jpg", 1)
        put_mask(tmp_path / f"SegmentationClass/{stem}.png", [0, 20, 255], palette=True)
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_1\n")
    with pytest.raises(MissingInput, match=r"val\.txt"):
        Masks(root=str(tmp_path), form="voc").open()
    (lists / "val.txt").write_text("2007_2\n")
    source = Masks(root=str(tmp_path), form="voc").open()
    assert source.class_names == tuple(VOC) and len(VOC) == 21
    assert first_map(source).ravel()[:3].tolist() == [0, 20, 255]
    (lists / "val.txt").write_text("../secret\n")
    with pytest.raises(BadInput, match="stay inside"):
        Masks(root=str(tmp_path), form="voc").open()


@pytest.mark.parametrize(("kind", "numbers"), [("labelTrainIds", [0, 18, 255]), ("labelIds", [7, 33, 4])])
def test_cityscapes(tmp_path: Path, kind: str, numbers: list[int]) -> None:
    for part in ("train", "val"):
        put_image(tmp_path / f"leftImg8bit/{part}/ulm/ulm_0_leftImg8bit.png", 1)
        put_mask(tmp_path / f"gtFine/{part}/ulm/ulm_0_gtFine_{kind}.png", numbers)
    source = Masks(root=str(tmp_path), form="cityscapes").open()
    assert source.num_classes == 19 and CITYSCAPES[18] == "bicycle"
    assert first_map(source).ravel()[:3].tolist() == [0, 18, 255]


def refusal(root: Path, **options: str) -> str:
    """The one line with which opening, or reading every map, ends."""
    with pytest.raises(PeftbenchError) as caught:
        source = Masks(root=str(root), **options).open()
        load_split(source, "trainval", ImageTransform(6), root / "cache")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_broken_masks_have_their_line(tmp_path: Path) -> None:
    mask = folders(tmp_path) / "annotations/train/train1.png"
    good = mask.read_bytes()
    mask.unlink()
    assert "1 of 4 images of train have no mask, first images/train/train1.jpg" in refusal(tmp_path)
    put_mask(mask, [0], size=(9, 8))
    assert "train1.png: the mask has 9 x 8 pixels and its image 12 x 8" in refusal(tmp_path)
    put_mask(mask, [0, 7, 9])
    assert "train1.png: its class_map holds 7, 9; it takes 0 to 2, and 255 where nothing is known" in refusal(tmp_path)
    put_image(mask, 1)
    assert "train1.png: a mask holds class numbers in one channel" in refusal(tmp_path)
    mask.write_bytes(good[:40])
    assert "train1.png: the mask cannot be decoded" in refusal(tmp_path)
    mask.write_bytes(b"")
    assert "are empty (0 bytes): annotations/train/train1.png" in refusal(tmp_path)
    mask.write_bytes(good)
    (tmp_path / "classes.txt").unlink()
    assert "write the names of the classes into it" in refusal(tmp_path)
    assert len(verify(Masks(root=str(folders(tmp_path))).open()).problems) == 0


def test_missing_folders_have_their_line(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"set dataset\.root=<folder>, which holds images/<part>"):
        Masks().open()
    assert "no images to train and to test with; dataset.form=ade20k takes images/training" in refusal(
        tmp_path, form="ade20k"
    )
    put_image(tmp_path / "images/train/a.jpg", 1)
    put_image(tmp_path / "images/train/a.png", 1)
    assert "two images are called a" in refusal(tmp_path)


def test_the_real_camvid(shared: Path) -> None:
    root = shared / "data" / "camvid"
    if not root.is_dir():
        pytest.skip("needs the shared CamVid")
    source = Masks(root=str(root), form="camvid").open()
    assert [len(source.split(part)) for part in ("train", "val", "test")] == [367, 101, 233]
    counts = np.bincount(source.split("test").read_map("class_map", 0).ravel(), minlength=256)
    assert counts.sum() == 360 * 480 and not counts[11:255].any()
