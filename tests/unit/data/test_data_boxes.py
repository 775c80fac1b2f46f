"""Boxes: of drawn scenes, in COCO's form, resized with their images, and what is said of broken files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from peftbench.data.boxes import boxes_problem, has_area, padded
from peftbench.data.contact_sheet import map_picture, map_sheet
from peftbench.data.maps import class_colours
from peftbench.data.pixels.cache import load_split
from peftbench.data.pixels.transform import ImageTransform
from peftbench.data.sources.coco import Coco
from peftbench.data.sources.scenes import Scenes, scene
from peftbench.data.splits import joined
from peftbench.data.verify import verify
from peftbench.foundation.errors import BadInput, MissingInput

WIDTH, HEIGHT = 40, 20
CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]


def put_part(root: Path, name: str, count: int = 3, **changes: Any) -> dict[str, Any]:
    """A part whose image number i has i boxes, cats and dogs in turn, and one crowd in the second."""
    (root / name).mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number in range(count):
        pixels = np.random.default_rng(len(name) * 100 + number).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name / f"{number}.png")
        images.append({"id": 10 + number, "file_name": f"{number}.png", "width": WIDTH, "height": HEIGHT})
        for box in range(number):
            item = {"id": len(annotations), "image_id": 10 + number, "category_id": (3, 7)[box % 2]}
            annotations.append({**item, "bbox": [3.0 * box, 2, 8, 10.5], "iscrowd": int((number, box) == (1, 0))})
    written = {"images": images, "annotations": annotations, "categories": CATEGORIES, **changes}
    (root / "annotations").mkdir(exist_ok=True)
    (root / f"annotations/instances_{name}.json").write_text(json.dumps(written))
    return written


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    root = tmp_path / "pets"
    put_part(root, "train2017", 12)
    put_part(root, "val2017", 4)
    return root


def test_boxes_of_a_scene_are_around_what_its_solids_show() -> None:
    drawn = scene(0, 0)
    assert drawn.boxes[:5].tolist() == [
        [13, 18, 24, 29, 3, 0],
        [14, 2, 23, 10, 4, 0],
        [22, 0, 32, 11, 2, 0],
        [6, 19, 21, 32, 4, 0],
        [0, 0, 11, 11, 2, 0],
    ]
    assert drawn.boxes.shape == (6, 6) and not drawn.boxes[5].any()
    for index in range(30):
        drawn = scene(0, index)
        outside = np.ones((32, 32), bool)
        for left, top, right, bottom, number, _ in drawn.boxes[has_area(drawn.boxes)].astype(int).tolist():
            outside[top:bottom, left:right] = False
            # every class has a pixel at each of the box's sides, unless too many of them are undecided
            assert (drawn.class_map[top:bottom, left:right] == number).any() or (drawn.class_map == 255).any()
        assert not ((drawn.class_map[outside] > 0) & (drawn.class_map[outside] != 255)).any()
        assert not boxes_problem(drawn.boxes, 5, (32, 32))


def test_what_hardly_shows_is_not_asked_for() -> None:
    boxes = np.concatenate([scene(0, index).boxes for index in range(60)])
    sides = np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    assert (boxes[:, 5] == ((sides < 3.2) & has_area(boxes))).all() and boxes[:, 5].any()


def test_cocos_form(coco: Path, tmp_path: Path) -> None:
    spec = Coco(root=str(coco))
    source = spec.open()
    assert spec.label == "pets" and source.class_names == ("cat", "dog") and source.targets == ("boxes",)
    # val tests where there are no instances of test images
    assert [len(source.split(name)) for name in ("train", "val", "trainval", "test")] == [11, 1, 12, 4]
    split = source.split("trainval")
    assert split.read_map("boxes", 2)[:3].tolist() == [[0, 2, 8, 12.5, 0, 0], [3, 2, 11, 12.5, 1, 0], [0] * 6]
    assert split.read_map("boxes", 1)[0, 5] == 1 and not split.read_map("boxes", 0).any()
    # as many rows in every part as the fullest image of all needs
    assert split.read_map("boxes", 0).shape == source.split("test").read_map("boxes", 3).shape == (11, 6)
    both = joined(source.split("train"), source.split("val"))
    assert both.size_of(11) == (WIDTH, HEIGHT) and both.read_map("boxes", 11).shape == (11, 6)
    loaded = load_split(source, "test", ImageTransform(10), tmp_path / "cache")
    assert loaded.targets["boxes"].shape == (4, 11, 6) and loaded.targets["boxes"].dtype == np.float32
    assert loaded.targets["boxes"][3][:2].tolist() == [[0, 1, 2, 6.25, 0, 0], [0.75, 1, 2.75, 6.25, 1, 0]]
    found = verify(source)
    assert not found.problems and "test: 4 images with boxes, 2 of 2 classes" in "\n".join(found.facts)
    put_part(coco, "test_own", 2)
    again = Coco(root=str(coco)).open()
    assert [len(again.split(name)) for name in ("train", "val", "test")] == [12, 4, 2]


def test_a_revision_knows_its_boxes(coco: Path) -> None:
    before, digest = Coco(root=str(coco)).revision(), Coco(root=str(coco)).open().split("test").content_digest()
    assert Coco(root=str(coco)).revision() == before
    path = coco / "annotations/instances_val2017.json"
    path.write_text(path.read_text().replace("10.5", "10.25"))
    assert Coco(root=str(coco)).revision() != before
    assert Coco(root=str(coco)).open().split("test").content_digest() != digest


def test_boxes_are_cut_with_the_picture() -> None:
    boxes = padded([[0, 2, 8, 12, 1, 0], [12, 0, 30, 20, 1, 0]], 3)
    # 40 x 20 to 20 x 10, of which the ten columns in the middle stay
    found = ImageTransform(10, resize="crop").apply_boxes(boxes, WIDTH, HEIGHT)
    assert found.tolist() == [[0] * 6, [1, 0, 10, 10, 1, 0], [0] * 6]


def changed(coco: Path, key: str, index: int, **values: Any) -> None:
    path = coco / "annotations/instances_train2017.json"
    read = json.loads(path.read_text())
    read[key][index] |= values
    path.write_text(json.dumps(read))


@pytest.mark.parametrize(
    ("key", "values", "words"),
    [
        ("annotations", {"category_id": 5}, "annotation 4 has category 5, which the file does not list"),
        ("annotations", {"category_id": [3]}, "annotation 4 has category"),
        ("annotations", {"image_id": 99}, "annotation 4 is of image 99, which the file does not list"),
        ("annotations", {"bbox": [36, 2, 8, 4]}, "which does not lie in 3.png of 40 x 20 pixels"),
        ("annotations", {"bbox": [3, 2, -8, 4]}, "does not lie in"),
        ("annotations", {"bbox": [3, 2, 8]}, "must be four numbers: left, top, width, height"),
        ("annotations", {"bbox": [3, 2, 8, float("nan")]}, "must be four numbers"),
        ("annotations", {"iscrowd": 2}, "iscrowd 2, which must be 0 or 1"),
        ("images", {"file_name": "../4.png"}, "must stay inside the dataset's folder"),
        ("images", {"file_name": "0.png"}, "stands there twice"),
        ("images", {"file_name": "gone.png"}, "1 of 16 listed images are missing: train2017/gone.png"),
        ("images", {"width": 0}, "lacks its id, file_name, width or height"),
        ("images", {"width": True}, "lacks its id"),
    ],
)
def test_a_wrong_entry_is_named(coco: Path, key: str, values: dict[str, Any], words: str) -> None:
    changed(coco, key, 4, **values)
    with pytest.raises(BadInput) as caught:
        Coco(root=str(coco)).open()
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_wrong_file_is_named(coco: Path, tmp_path: Path) -> None:
    path = coco / "annotations/instances_val2017.json"
    written = json.loads(path.read_text())

    def said(text: str) -> str:
        path.write_text(text)
        with pytest.raises(BadInput) as caught:
            Coco(root=str(coco)).open()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "instances_val2017.json: not JSON" in said('{"images": [')
    assert "no list of annotations and of categories" in said('{"images": []}')
    assert "no list of images" in said("[1]")
    assert "it has no boxes" in said(json.dumps({**written, "annotations": []}))
    assert "it lists no images" in said(json.dumps({**written, "images": []}))
    assert "its categories are not those of instances_train2017.json" in said(
        json.dumps({**written, "categories": [*CATEGORIES, {"id": 9, "name": "cow"}]})
    )
    assert "'dog' stands there twice" in said(json.dumps({**written, "categories": [CATEGORIES[0]] * 2}))
    assert "a category has no whole number for an id" in said(json.dumps({**written, "categories": [{"name": "cow"}]}))
    path.write_text(json.dumps(written))
    # the picture is another one than the annotations speak of
    Image.new("RGB", (8, 8)).save(coco / "val2017/3.png")
    with pytest.raises(BadInput, match="the annotations say 40 x 20 pixels and the image has 8 x 8"):
        load_split(Coco(root=str(coco)).open(), "test", ImageTransform(8), tmp_path / "cache")


def test_an_absent_part_is_named(coco: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"set dataset\.root=<folder>, which holds annotations/instances_train2017"):
        Coco().revision()
    put_part(coco, "train_more")
    with pytest.raises(BadInput, match=r"instances_train_more.json: instances_train2017.json is of train as well"):
        Coco(root=str(coco)).open()
    (coco / "annotations/instances_train_more.json").unlink()
    (coco / "val2017").rename(coco / "elsewhere")
    with pytest.raises(MissingInput, match="no folder val2017 or images/val2017 or images"):
        Coco(root=str(coco)).open()
    (coco / "annotations/instances_val2017.json").unlink()
    with pytest.raises(MissingInput, match=r"no annotations/instances_\*.json to test with"):
        Coco(root=str(coco)).open()


def test_boxes_of_no_width_are_left_out_and_a_pixel_over_the_border_is_cut(coco: Path) -> None:
    changed(coco, "annotations", 1, bbox=[3, 2, 0, 5])
    changed(coco, "annotations", 2, bbox=[-0.5, 2, 41, 19])
    split = Coco(root=str(coco)).open().split("trainval")
    assert split.read_map("boxes", 2)[:2].tolist() == [[0, 2, 40, 20, 1, 0], [0] * 6]


def test_pictures_of_boxes() -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    boxes = padded([[4, 8, 16, 24, 2, 0], [20, 20, 30, 30, 1, 1]], 4)
    picture = map_picture("boxes", boxes, image, tile=64)
    assert picture.shape == (64, 64, 3)
    assert (picture[16, 8:32] == class_colours(3)[2]).all() and (picture[16:48, 8] == class_colours(3)[2]).all()
    assert (picture[40, 40:60] == 150).all() and not picture[20:44, 12:28].any()
    split = Scenes().open().split("val200")
    assert map_sheet(split, ("a",) * 5, rows=2).width > 7 * 96
