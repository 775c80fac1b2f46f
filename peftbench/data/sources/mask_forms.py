"""Where the known segmentation sets keep images and masks, what their numbers mean, what their classes are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from peftbench.data.maps import numbers_from_one, plain_numbers
from peftbench.data.sources.image_lists import path_problem, read_text
from peftbench.data.sources.map_files import ClassNumbers, Reader
from peftbench.foundation.entries import entries_in, matching
from peftbench.foundation.errors import BadInput, MissingInput
from peftbench.foundation.maps import UNKNOWN

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
# part -> its list; the labels of test images are not public, so that `val` tests
PUBLIC_LISTS = {"train": "train", "test": "val"}
_VOC_LISTS, _VOC_MASKS = "ImageSets/Segmentation", "SegmentationClass"

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


@dataclass(frozen=True)
class Sample:
    """An image and the files of each of its maps by name, paths from the root."""

    image: str
    maps: Mapping[str, tuple[str, ...]]

    @classmethod
    def of_mask(cls, image: str, mask: str) -> Sample:
        return cls(image, {"class_map": (mask,)})

    @property
    def files(self) -> list[str]:
        """Every file once, the image first."""
        return list(dict.fromkeys([self.image, *(file for files in self.maps.values() for file in files)]))


Samples = list[Sample]


@dataclass(frozen=True)
class Found:
    """Parts (`train`, `test`, perhaps `val`) as images with their maps; classes by name.

    `numbers`: what a mask's number means, uint8 [256]; a number that means nothing stays what it is and is refused.
    `others`: how maps beside the class map are read.
    """

    parts: dict[str, Samples]
    class_names: tuple[str, ...]
    numbers: np.ndarray
    others: Mapping[str, Reader] = field(default_factory=dict)

    @property
    def readers(self) -> dict[str, Reader]:
        return {"class_map": ClassNumbers(self.numbers), **self.others}


def folders(root: Path) -> Found:
    """images/<part>/NAME.jpg and annotations/<part>/NAME.png, 255 unknown; classes.txt, one name a line
    (mmsegmentation).
    """
    parts = {part: _twins(root, f"images/{part}", f"annotations/{part}") for part in ("train", "val", "test")}
    return Found(needed(root, parts), _names(root), plain_numbers())


def camvid(root: Path) -> Found:
    """SegNet's folders train, trainannot, val, valannot, test, testannot, 11 unknown; or those of `folders`."""
    if not (root / "trainannot").is_dir():
        found = folders(root)
        return Found(found.parts, found.class_names or tuple(CAMVID), found.numbers)
    parts = {part: _twins(root, part, f"{part}annot") for part in ("train", "val", "test")}
    numbers = plain_numbers()
    numbers[len(CAMVID)] = UNKNOWN
    return Found(needed(root, parts), tuple(CAMVID), numbers)


def ade20k(root: Path) -> Found:
    """images/training, annotations/training and .../validation, which tests; 0 is unknown, 1 to 150 are the classes."""
    named = {"train": "training", "test": "validation"}
    parts = {part: _twins(root, f"images/{name}", f"annotations/{name}") for part, name in named.items()}
    names = _names(root) or _ade20k_names(root) or tuple(f"class_{number}" for number in range(1, 151))
    return Found(needed(root, parts), names, numbers_from_one(150))


def voc(root: Path) -> Found:
    """JPEGImages, SegmentationClass and ImageSets/Segmentation/train.txt and val.txt, which tests; 255 at borders."""
    stems = listed_stems(root, _VOC_LISTS, "JPEGImages")
    return _of_voc(root, {part: [(stem, _VOC_MASKS) for stem in listed] for part, listed in stems.items()})


def voc_aug(root: Path) -> Found:
    """the folders of voc, SegmentationClassAug with the masks of SBD, and ImageSets/Segmentation/trainaug.txt, or
    aug.txt, the list without VOC's own; 255 at borders.

    Images of train.txt keep VOC's masks, which have borders, as in mmsegmentation; no image of val.txt may train.
    """
    stems = listed_stems(root, _VOC_LISTS, "JPEGImages")
    names = [name for name in ("trainaug", "aug") if (root / _VOC_LISTS / f"{name}.txt").is_file()]
    listed = listed_stems(root, _VOC_LISTS, "JPEGImages", {"train": (names or ["trainaug"])[0]})["train"]
    own, tests = set(stems["train"]), set(stems["test"])
    if leaked := [stem for stem in listed if stem in tests]:
        raise BadInput(f"{root / _VOC_LISTS}: {names[0]}.txt trains on {leaked[0]}, which val.txt tests; take it out")
    added = [stem for stem in dict.fromkeys(listed) if stem not in own]
    train = [*((stem, _VOC_MASKS) for stem in stems["train"]), *((stem, f"{_VOC_MASKS}Aug") for stem in added)]
    return _of_voc(root, {"train": train, "test": [(stem, _VOC_MASKS) for stem in stems["test"]]})


def _of_voc(root: Path, parts: Mapping[str, Sequence[tuple[str, str]]]) -> Found:
    """Parts as pairs of a stem and the folder of its mask."""
    samples = {
        part: [Sample.of_mask(f"JPEGImages/{stem}.jpg", f"{folder}/{stem}.png") for stem, folder in pairs]
        for part, pairs in parts.items()
    }
    return Found(needed(root, samples), tuple(VOC), plain_numbers())


def cityscapes(root: Path) -> Found:
    """leftImg8bit/<part>/CITY and gtFine/<part>/CITY, labelTrainIds or labelIds; val tests, whose labels are public."""
    parts: dict[str, Samples] = {}
    found_ids: set[str] = set()
    for part, name in {"train": "train", "test": "val"}.items():
        samples: Samples = []
        for image in matching(root / "leftImg8bit" / name, "*/*_leftImg8bit.png"):
            stem = f"gtFine/{name}/{image.parent.name}/{image.name.removesuffix('_leftImg8bit.png')}_gtFine_"
            kind = "labelTrainIds" if (root / f"{stem}labelTrainIds.png").is_file() else "labelIds"
            found_ids.add(kind)
            samples.append(Sample.of_mask(str(image.relative_to(root)), f"{stem}{kind}.png"))
        parts[part] = samples
    if len(found_ids) > 1:
        raise BadInput(f"{root}: some masks are labelTrainIds and some labelIds; make labelTrainIds for all")
    numbers = plain_numbers()
    if found_ids == {"labelIds"}:
        numbers[:] = UNKNOWN
        numbers[list(_CITYSCAPES_IDS)] = np.arange(len(CITYSCAPES))
    return Found(needed(root, parts), tuple(CITYSCAPES), numbers)


def listed_stems(root: Path, folder: str, images: str, lists: Mapping[str, str] = PUBLIC_LISTS) -> dict[str, list[str]]:
    """Stems of the files of a part: `train`, and `test` from the public validation list, from `lists` in `folder`."""
    found = {}
    for part, name in lists.items():
        listed = root / folder / f"{name}.txt"
        if not listed.is_file():
            raise MissingInput(f"there is no {listed}; dataset.root is the folder that holds {images}/")
        found[part] = read_text(listed).split()
        if problems := [problem for stem in found[part] if (problem := path_problem(stem))]:
            raise BadInput(f"{listed}: {problems[0]}")
    return found


def _twins(root: Path, images: str, masks: str) -> Samples:
    """Every image in one folder with the mask of its name in the other; none where there is no such folder."""
    found = [path for path in entries_in(root / images) if path.suffix.lower() in IMAGE_SUFFIXES]
    twice = [a.stem for a, b in pairwise(found) if a.stem == b.stem]
    if twice:
        raise BadInput(f"{root / images}: two images are called {twice[0]}; keep one")
    return [Sample.of_mask(f"{images}/{path.name}", f"{masks}/{path.stem}.png") for path in found]


def needed(root: Path, parts: dict[str, Samples]) -> dict[str, Samples]:
    """The parts that there are. Raises `MissingInput` without images to train or to test on."""
    absent = [part for part in ("train", "test") if not parts[part]]
    if absent:
        raise MissingInput(f"{root}: no images to {' and to '.join(absent)} with")
    return {part: samples for part, samples in parts.items() if samples}


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
