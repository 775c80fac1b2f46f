"""Images as files with boxes in COCO's form."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from peftbench.data.base import DATASETS, Source
from peftbench.data.boxes import padded
from peftbench.data.parts import PartsSource
from peftbench.data.pixels.decode import image_size
from peftbench.data.raw import RawSplit
from peftbench.data.sources.coco_files import Annotated, instance_files, read_instances
from peftbench.data.sources.image_lists import ImageList, image_sizes, listed_files, lists_digest
from peftbench.data.sources.own_folder import OwnFolder
from peftbench.data.splits import FileSplit
from peftbench.foundation.errors import BadInput, MissingInput
from peftbench.foundation.maps import BOXES

if TYPE_CHECKING:
    from PIL.Image import Image

# part of every digest: raise it when boxes are read in another way
READING = 1
LAYOUT = "annotations/instances_train2017.json, train2017/, and the same of val2017"


@DATASETS.add("coco")
@dataclass(frozen=True)
class Coco(OwnFolder):
    """Images with boxes in `root`: `annotations/instances_NAME.json`, images in `NAME`, `images/NAME` or `images`.

    NAME begins with train, val or test. Without instances of a test part, as in COCO, whose own are not public, val
    tests.
    """

    def revision(self) -> str:
        parts = self._parts()
        digest = lists_digest(self._place(), _lists(parts), self.follow_links)
        about = "\n".join([digest, *(part.own_digest() for part in parts.values())])
        return hashlib.sha256(about.encode()).hexdigest()

    def check(self) -> None:
        parts = self._parts()
        image_sizes(self._place(), [file for part in parts.values() for file in part.files], self.follow_links)

    def inputs(self) -> list[Path]:
        folder = self._place() / "annotations"
        return [*listed_files(self._place(), _lists(self._parts())), folder, *(path for _, path in _files(folder))]

    def open(self) -> Source:
        self.check()
        parts = self._parts()
        return self._source(CocoSource, tuple(parts["train"].annotated.categories.values()), parts)

    def _parts(self) -> dict[str, CocoSplit]:
        """`train`, `test`, perhaps `val`. Raises `MissingInput`, or `BadInput` for files that do not fit together."""
        place = self._folder(LAYOUT)
        files = {name: (stem, path) for name, (stem, path) in _by_part(place).items()}
        if "test" not in files and "val" in files:
            files["test"] = files.pop("val")
        if absent := [part for part in ("train", "test") if part not in files]:
            words = f"no annotations/instances_*.json to {' and to '.join(absent)} with"
            raise MissingInput(f"{self.label}: {place} has {words}; it must hold {LAYOUT}")
        read = {part: _read(path, path.stat().st_mtime_ns) for part, (_, path) in files.items()}
        categories = read["train"].categories
        for part, annotated in read.items():
            if annotated.categories != categories:
                raise BadInput(f"{files[part][1]}: its categories are not those of {files['train'][1].name}")
        most = max(annotated.most for annotated in read.values())
        return {part: CocoSplit(place, _folder_of(place, files[part][0]), read[part], most) for part in read}


@lru_cache(maxsize=4)
def _read(path: Path, changed: int) -> Annotated:
    """Once for each state of the file: COCO's has half a gigabyte."""
    return read_instances(path)


def _files(folder: Path) -> list[tuple[str, Path]]:
    return list(instance_files(folder))


def _by_part(place: Path) -> dict[str, tuple[str, Path]]:
    found: dict[str, tuple[str, Path]] = {}
    for stem, path in _files(place / "annotations"):
        part = next((part for part in ("train", "val", "test") if stem.startswith(part)), None)
        if part is not None and part in found:
            raise BadInput(f"{path}: {found[part][1].name} is of {part} as well; keep one of them there")
        if part is not None:
            found[part] = stem, path
    return found


def _folder_of(place: Path, name: str) -> str:
    """Where the images of instances_<name>.json lie, from the root."""
    folders = (name, f"images/{name}", "images")
    if there := [folder for folder in folders if (place / folder).is_dir()]:
        return there[0]
    raise MissingInput(f"{place}: there is no folder {' or '.join(folders)} with the images of instances_{name}.json")


def _lists(parts: dict[str, CocoSplit]) -> dict[str, ImageList]:
    return {part: ImageList(split.files, split.labels) for part, split in parts.items()}


@dataclass(frozen=True)
class CocoSource(PartsSource):
    """Parts whose images have boxes."""

    @property
    def targets(self) -> tuple[str, ...]:
        return (BOXES,)


class CocoSplit(RawSplit):
    """Image files below `root` in `folder`, with boxes in arrays of `most` rows."""

    maps = (BOXES,)

    def __init__(self, root: Path, folder: str, annotated: Annotated, most: int) -> None:
        self._root, self._folder, self._most = root, folder, most
        self.annotated = annotated
        self.files = tuple(f"{folder}/{name}" for name in annotated.images)
        self.labels = np.zeros(len(self.files), np.int64)
        self._images = FileSplit([root / file for file in self.files], self.labels)

    def content_digest(self) -> str:
        return hashlib.sha256((self._images.content_digest() + self.own_digest()).encode()).hexdigest()

    def own_digest(self) -> str:
        """SHA-256 (hex) over classes, sizes and boxes."""
        digest = hashlib.sha256(f"boxes read v{READING} {self._most} {self.annotated.categories}".encode())
        for size, boxes in zip(self.annotated.sizes, self.annotated.boxes, strict=True):
            digest.update(f"{size}{len(boxes)}".encode() + boxes.tobytes())
        return digest.hexdigest()

    def read(self, index: int) -> Image:
        return self._images.read(index)

    def read_map(self, name: str, index: int) -> np.ndarray:
        size = self.size_of(index)
        path = self._images.paths[index]
        try:
            own = image_size(path.read_bytes(), str(path))
        except OSError as error:
            raise BadInput(f"{path}: the image cannot be read ({error.strerror})") from error
        if own != size:
            words = f"the annotations say {size[0]} x {size[1]} pixels and the image has {own[0]} x {own[1]}"
            raise BadInput(f"{path}: {words}; its boxes would lie elsewhere")
        return padded(self.annotated.boxes[index], self._most)

    def size_of(self, index: int) -> tuple[int, int]:
        return self.annotated.sizes[index]

    def take(self, rows: np.ndarray) -> CocoSplit:
        return CocoSplit(self._root, self._folder, self.annotated.take(rows.tolist()), self._most)

    def describe(self, index: int) -> str:
        return str(self._images.paths[index])
