"""Segmentation sets as files: every known form, and what is said of broken ones."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from peftbench.data.base import Source
from peftbench.data.pixels.cache import load_split
from peftbench.data.pixels.transform import ImageTransform
from peftbench.data.sources.mask_forms import CITYSCAPES, VOC
from peftbench.data.sources.masks import Masks
from peftbench.data.verify import verify
from peftbench.foundation.errors import BadInput, MissingInput, PeftbenchError
from tests.closed_folders import close_folder

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


@pytest.mark.parametrize(("name", "listed"), [("trainaug", ["a", "b", "c"]), ("aug", ["c", "b"])])
def test_pascal_voc_with_the_masks_of_sbd(tmp_path: Path, name: str, listed: list[str]) -> None:
    """Images of VOC's own list keep its masks with borders; the further ones have SBD's; its test images test alone."""
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for stem in "abcv":
        put_image(tmp_path / f"JPEGImages/{stem}.jpg", 1)
        put_mask(tmp_path / f"SegmentationClassAug/{stem}.png", [3, 20], palette=True)
    for stem in "av":
        put_mask(tmp_path / f"SegmentationClass/{stem}.png", [3, 20, 255], palette=True)
    (lists / "train.txt").write_text("a\n")
    (lists / "val.txt").write_text("v\n")
    spec = Masks(root=str(tmp_path), form="voc_aug")
    with pytest.raises(MissingInput, match=r"there is no .*trainaug\.txt"):
        spec.open()
    (lists / f"{name}.txt").write_text("\n".join(listed))
    source = spec.open()
    train, test = source.split("trainval"), source.split("test")
    found = {Path(train.describe(row)).as_posix().removeprefix(f"{tmp_path}/") for row in range(len(train))}
    assert found == {"SegmentationClass/a.png", "SegmentationClassAug/b.png", "SegmentationClassAug/c.png"}
    assert len(test) == 1 and 255 in test.read_map("class_map", 0)
    (lists / f"{name}.txt").write_text("c\nv\n")
    with pytest.raises(BadInput, match=rf"{name}\.txt trains on v, which val\.txt tests"):
        spec.open()


@pytest.mark.parametrize(("kind", "numbers"), [("labelTrainIds", [0, 18, 255]), ("labelIds", [7, 33, 4])])
def test_cityscapes(tmp_path: Path, kind: str, numbers: list[int]) -> None:
    for part in ("train", "val"):
        put_image(tmp_path / f"leftImg8bit/{part}/ulm/ulm_0_leftImg8bit.png", 1)
        put_mask(tmp_path / f"gtFine/{part}/ulm/ulm_0_gtFine_{kind}.png", numbers)
    source = Masks(root=str(tmp_path), form="cityscapes").open()
    assert source.num_classes == 19 and CITYSCAPES[18] == "bicycle"
    assert first_map(source).ravel()[:3].tolist() == [0, 18, 255]


def test_a_city_that_may_not_be_read_ends_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part, city in (("train", "bonn"), ("train", "ulm"), ("val", "ulm")):
        put_image(tmp_path / f"leftImg8bit/{part}/{city}/{city}_0_leftImg8bit.png", 1)
        put_mask(tmp_path / f"gtFine/{part}/{city}/{city}_0_gtFine_labelTrainIds.png", [0, 18])
    closed = tmp_path / "leftImg8bit/train/bonn"
    close_folder(monkeypatch, closed)
    assert f"{closed}: permission denied; give yourself the right" in refusal(tmp_path, form="cityscapes")


def refusal(root: Path, **options: str) -> str:
    """The one line with which opening, or reading every map, ends."""
    with pytest.raises(PeftbenchError) as caught:
        source = Masks(root=str(root), **options).open()
        load_split(source, "trainval", ImageTransform(6), root / "cache")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_its_folder_of_masks_a_run_says_what_is_missing(tmp_path: Path) -> None:
    shutil.rmtree(folders(tmp_path) / "annotations")
    spec = Masks(root=str(tmp_path))
    for asked in (spec.check, spec.revision, spec.open):
        with pytest.raises(BadInput, match=r"4 of 4 images of train have no mask, first images/train/train0\.jpg"):
            asked()


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
    # of what Pillow does not know it gives the place in memory, and so a line of its own for each split
    mask.write_bytes(b"no picture")
    [problem] = verify(Masks(root=str(tmp_path)).open()).problems
    assert problem.endswith(
        "train1.png: the mask cannot be decoded (not an image format Pillow knows); it is corrupt or truncated"
    )
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


def put_array(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)


def nyud(root: Path) -> Path:
    """Two images train and one tests; the normal of every pixel is twice (0, 0.6, -0.8).

    The first pixel has neither normal nor depth.
    """
    depth = np.full(SIZE[::-1], 2.5, np.float32)
    normals = np.tile(np.array([0, 1.2, -1.6], np.float64), (*SIZE[::-1], 1))
    depth[0, 0], normals[0, 0] = 0, 0
    for stem in ("0001", "0002", "0003"):
        put_image(root / f"images/{stem}.jpg", 1)
        put_mask(root / f"segmentation/{stem}.png", [0, 1, 40])
        put_array(root / f"depth/{stem}.npy", depth)
        put_array(root / f"normals/{stem}.npy", normals)
        put_array(root / f"edge/{stem}.npy", np.eye(*SIZE[::-1]))
    (root / "gt_sets").mkdir()
    (root / "gt_sets/train.txt").write_text("0001\n0003\n")
    (root / "gt_sets/val.txt").write_text("0002\n")
    return root


def test_nyud_has_four_maps(tmp_path: Path) -> None:
    source = Masks(root=str(nyud(tmp_path)), form="nyud").open()
    assert source.num_classes == 40 and source.class_names[38:] == ("other_furniture", "other_prop")
    assert source.targets == ("class_map", "depth", "normals", "edges")
    assert first_map(source).ravel()[:3].tolist() == [255, 0, 39]
    split = source.split("trainval")
    depth, normals = split.read_map("depth", 0), split.read_map("normals", 0)
    assert np.isnan(depth[0, 0]) and (depth.ravel()[1:] == 2.5).all() and depth.dtype == np.float32
    assert normals.shape == (3, 8, 12) and np.isnan(normals[:, 0, 0]).all()
    assert normals[:, 3, 4] == pytest.approx([0, 0.6, -0.8])
    assert (split.read_map("edges", 0) == np.eye(8, 12)).all()
    assert verify(source).problems == []
    stored = load_split(source, "trainval", ImageTransform(6), tmp_path / "cache")
    assert {name: values.shape for name, values in stored.targets.items()} == {
        "class_map": (2, 6, 6),
        "depth": (2, 6, 6),
        "normals": (2, 3, 6, 6),
        "edges": (2, 6, 6),
    }


def test_a_map_beside_the_classes_counts_in_what_a_data_set_is(tmp_path: Path) -> None:
    spec = Masks(root=str(nyud(tmp_path)), form="nyud")
    before, digest = spec.revision(), spec.open().split("trainval").content_digest()
    put_array(tmp_path / "depth/0001.npy", np.ones(SIZE[::-1], np.float32))
    again = Masks(root=str(tmp_path), form="nyud")
    assert again.revision() != before and again.open().split("trainval").content_digest() != digest


def test_a_kind_of_map_without_its_folder_is_left_out_and_edges_may_be_pictures(tmp_path: Path) -> None:
    nyud(tmp_path)
    for folder in ("normals", "edge"):
        for path in (tmp_path / folder).iterdir():
            path.unlink()
    (tmp_path / "normals").rmdir()
    for stem in ("0001", "0002", "0003"):
        put_mask(tmp_path / f"edge/{stem}.png", [0, 255])
    source = Masks(root=str(tmp_path), form="nyud").open()
    assert source.targets == ("class_map", "depth", "edges")
    assert source.split("test").read_map("edges", 0).ravel()[:3].tolist() == [0, 1, 0]


def test_broken_maps_have_their_line(tmp_path: Path) -> None:
    depth = nyud(tmp_path) / "depth/0001.npy"
    depth.unlink()
    words = refusal(tmp_path, form="nyud")
    assert "1 of 2 images of train have no mask, first images/0001.jpg, whose mask would be depth/0001.npy" in words
    for values, said in (
        (np.ones((3, 4)), "depth/0001.npy: the mask has 4 x 3 pixels and its image 12 x 8"),
        (np.ones((8, 12, 3)), "the array has 8 x 12 x 3 numbers and must have height x width"),
        (np.full((8, 12), "x"), "this map is one array of numbers"),
    ):
        put_array(depth, values)
        assert said in refusal(tmp_path, form="nyud")
    np.save(depth, np.array([{}]), allow_pickle=True)
    assert "numpy cannot read it" in refusal(tmp_path, form="nyud")
    (tmp_path / "gt_sets/val.txt").unlink()
    assert "gt_sets/val.txt" in refusal(tmp_path, form="nyud")


def put_matlab(path: Path, **variables: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, variables)


def people(*parts: tuple[str, np.ndarray], category: int = 15) -> dict[str, Any]:
    """One thing in an image with these parts, as Pascal-Part stores it."""
    kind = [("part_name", "O"), ("mask", "O")]
    thing = np.zeros(1, [("class", "O"), ("class_ind", "O"), ("mask", "O"), ("parts", "O")])
    thing[0] = ("person", category, np.ones(SIZE[::-1], np.uint8), np.array(list(parts), kind) if parts else [])
    return {"imname": "x", "objects": thing}


def pascal_mt(root: Path) -> Path:
    """`a` and `c` train and have a person, their class masks are VOC's; `b` tests and has a sheep."""
    labels = np.full(SIZE[::-1], 440)
    labels[:, 6:] = 360
    upper, lower = np.zeros(SIZE[::-1], np.uint8), np.zeros(SIZE[::-1], np.uint8)
    upper[0], lower[7] = 1, 1
    for stem, mask in (("a", "VOC12"), ("b", "pascal-context"), ("c", "VOC12")):
        put_image(root / f"JPEGImages/{stem}.jpg", 1)
        put_mask(root / f"semseg/{mask}/{stem}.png", [0, 20, 255], palette=True)
        put_matlab(root / f"pascal-context/trainval/{stem}.mat", LabelMap=labels.astype(np.float64))
        put_mask(root / f"sal_distill/{stem}.png", [0, 127, 128])
        put_image(root / f"normals_distill/{stem}.png", 3)
    for stem in ("a", "c"):
        put_matlab(root / f"human_parts/{stem}.mat", anno=people(("hair", upper), ("rfoot", lower)))
    put_matlab(root / "human_parts/b.mat", anno=people(("head", upper), category=17))
    (root / "ImageSets/Context").mkdir(parents=True)
    (root / "ImageSets/Context/train.txt").write_text("a\nc\n")
    (root / "ImageSets/Context/val.txt").write_text("b\n")
    return root


def test_pascal_context_has_five_maps(tmp_path: Path) -> None:
    source = Masks(root=str(pascal_mt(tmp_path)), form="pascal_mt").open()
    assert source.class_names == tuple(VOC)
    assert source.targets == ("class_map", "human_parts", "saliency", "normals", "edges")
    train, test = source.split("trainval"), source.split("test")
    assert first_map(source).ravel()[:3].tolist() == [0, 20, 255]
    assert train.read_map("human_parts", 0)[[0, 4, 7], 0].tolist() == [1, 0, 6]
    assert (test.read_map("human_parts", 0) == 255).all()
    assert train.read_map("saliency", 0).ravel()[:3].tolist() == [0, 0, 1]
    edges = train.read_map("edges", 0)
    assert edges[:, 5].all() and edges.sum() == 8
    normals = train.read_map("normals", 0)
    # walls are among NYUDv2's kinds, the sky is not
    assert np.isfinite(normals[:, :, :6]).all() and np.isnan(normals[:, :, 6:]).all()
    pixel = np.asarray(Image.open(tmp_path / "normals_distill/a.png"))[2, 3] / 127.5 - 1
    assert normals[:, 2, 3] == pytest.approx(pixel / np.linalg.norm(pixel), abs=1e-6)
    assert verify(source).problems == []


def test_broken_matlab_files_have_their_line(tmp_path: Path) -> None:
    pascal_mt(tmp_path)
    parts, labels = tmp_path / "human_parts/a.mat", tmp_path / "pascal-context/trainval/a.mat"
    for write, said in (
        (lambda: put_matlab(parts, other=1), "a.mat: these are no parts of people as Pascal-Part has them"),
        (lambda: put_matlab(parts, anno=people(("wing", np.ones((8, 12), np.uint8)))), "no parts of people"),
        (lambda: put_matlab(parts, anno=people(("head", np.ones((4, 4), np.uint8)))), "no parts of people"),
        (lambda: parts.write_bytes(parts.read_bytes()[:150]), "it is no Matlab file up to version 7.2"),
        (lambda: parts.write_bytes(b"junk"), "it is no Matlab file up to version 7.2"),
        (lambda: put_matlab(parts, anno=people()), ""),
        (lambda: put_matlab(labels, LabelMap=np.ones((4, 4))), "the mask has 4 x 4 pixels"),
        (lambda: put_matlab(labels, Labels=np.ones((8, 12))), "there is no matrix LabelMap in it"),
    ):
        write()
        if said:
            assert said in refusal(tmp_path, form="pascal_mt")


def test_the_size_of_an_image_is_read_without_decoding_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Masks(root=str(folders(tmp_path))).open()
    split = source.split("train")

    def refuse(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.load", refuse)
    assert split.read_map("class_map", 0).shape == (8, 12)
