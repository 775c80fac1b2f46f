"""Where the known segmentation sets keep images and masks, what their numbers mean, what their classes are called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from peftbench.data.maps import UNKNOWN, numbers_from_one, plain_numbers
from peftbench.data.sources.image_lists import path_problem, read_text
from peftbench.foundation.errors import BadInput, MissingInput

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")

CAMVID = [
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign_symbol",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
]
VOC = [
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
]
CITYSCAPES = [
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic_light",
    "traffic_sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
]
# labelIds of the 19 classes, in the order of their trainIds
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Found:
    """Parts (`train`, `test`, perhaps `val`) as pairs of image and mask, paths from the root; classes by name.

    `numbers`: what a mask's number means, uint8 [256]; a number that means nothing stays what it is and is refused.
    """

    parts: dict[str, Pairs]
    class_names: tuple[str, ...]
    numbers: np.ndarray


def folders(root: Path) -> Found:
    """images/<part>/NAME.jpg and annotations/<part>/NAME.png, 255 unknown; classes.txt, one name a line
    (mmsegmentation).
    """
    parts = {part: _twins(root, f"images/{part}", f"annotations/{part}") for part in ("train", "val", "test")}
    return Found(_needed(root, parts), _names(root), plain_numbers())


def camvid(root: Path) -> Found:
    """SegNet's folders train, trainannot, val, valannot, test, testannot, 11 unknown; or those of `folders`."""
    if not (root / "trainannot").is_dir():
        found = folders(root)
        return Found(found.parts, found.class_names or tuple(CAMVID), found.numbers)
    parts = {part: _twins(root, part, f"{part}annot") for part in ("train", "val", "test")}
    numbers = plain_numbers()
    numbers[len(CAMVID)] = UNKNOWN
    return Found(_needed(root, parts), tuple(CAMVID), numbers)


def ade20k(root: Path) -> Found:
    """images/training, annotations/training and .../validation, which tests; 0 is unknown, 1 to 150 are the classes."""
    named = {"train": "training", "test": "validation"}
    parts = {part: _twins(root, f"images/{name}", f"annotations/{name}") for part, name in named.items()}
    names = _names(root) or _ade20k_names(root) or tuple(f"class_{number}" for number in range(1, 151))
    return Found(_needed(root, parts), names, numbers_from_one(150))


def voc(root: Path) -> Found:
    """JPEGImages, SegmentationClass and ImageSets/Segmentation/train.txt and val.txt, which tests; 255 at borders."""
    parts = {}
    for part, name in {"train": "train", "test": "val"}.items():
        listed = root / "ImageSets" / "Segmentation" / f"{name}.txt"
        if not listed.is_file():
            raise MissingInput(f"there is no {listed}; dataset.root is the folder that holds JPEGImages/")
        stems = read_text(listed).split()
        if problems := [problem for stem in stems if (problem := path_problem(stem))]:
            raise BadInput(f"{listed}: {problems[0]}")
        parts[part] = [(f"JPEGImages/{stem}.jpg", f"SegmentationClass/{stem}.png") for stem in stems]
    return Found(_needed(root, parts), tuple(VOC), plain_numbers())


def cityscapes(root: Path) -> Found:
    """leftImg8bit/<part>/CITY and gtFine/<part>/CITY, labelTrainIds or labelIds; val tests, whose labels are public."""
    parts: dict[str, Pairs] = {}
    found_ids: set[str] = set()
    for part, name in {"train": "train", "test": "val"}.items():
        pairs: Pairs = []
        for image in sorted((root / "leftImg8bit" / name).glob("*/*_leftImg8bit.png")):
            stem = f"gtFine/{name}/{image.parent.name}/{image.name.removesuffix('_leftImg8bit.png')}_gtFine_"
            kind = "labelTrainIds" if (root / f"{stem}labelTrainIds.png").is_file() else "labelIds"
            found_ids.add(kind)
            pairs.append((str(image.relative_to(root)), f"{stem}{kind}.png"))
        parts[part] = pairs
    if len(found_ids) > 1:
        raise BadInput(f"{root}: some masks are labelTrainIds and some labelIds; make labelTrainIds for all")
    numbers = plain_numbers()
    if found_ids == {"labelIds"}:
        numbers[:] = UNKNOWN
        numbers[list(_CITYSCAPES_IDS)] = np.arange(len(CITYSCAPES))
    return Found(_needed(root, parts), tuple(CITYSCAPES), numbers)


FORMS: dict[str, Callable[[Path], Found]] = {
    "folders": folders,
    "camvid": camvid,
    "ade20k": ade20k,
    "voc": voc,
    "cityscapes": cityscapes,
}


def _twins(root: Path, images: str, masks: str) -> Pairs:
    """Every image in one folder with the mask of its name in the other; none where there is no such folder."""
    try:
        found = sorted(path for path in (root / images).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise BadInput(f"{root / images}: cannot be read ({error.strerror})") from error
    twice = [a.stem for a, b in pairwise(found) if a.stem == b.stem]
    if twice:
        raise BadInput(f"{root / images}: two images are called {twice[0]}; keep one")
    return [(f"{images}/{path.name}", f"{masks}/{path.stem}.png") for path in found]


def _needed(root: Path, parts: dict[str, Pairs]) -> dict[str, Pairs]:
    """The parts that there are. Raises `MissingInput` without images to train or to test on."""
    absent = [part for part in ("train", "test") if not parts[part]]
    if absent:
        raise MissingInput(f"{root}: no images to {' and to '.join(absent)} with")
    return {part: pairs for part, pairs in parts.items() if pairs}


def _names(root: Path) -> tuple[str, ...]:
    path = root / "classes.txt"
    return tuple(line.strip() for line in read_text(path).splitlines() if line.strip()) if path.is_file() else ()


def _ade20k_names(root: Path) -> tuple[str, ...]:
    """The first name of each class in the file that comes with the data, where it is there."""
    path = root / "objectInfo150.txt"
    if not path.is_file():
        return ()
    rows = [line.split("\t") for line in read_text(path).splitlines()[1:] if line.strip()]
    return tuple(row[-1].split(",")[0].strip() for row in rows)
