"""Images as files with a mask of class numbers each, and perhaps other maps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from peftbench.data.base import DATASETS, Source
from peftbench.data.parts import PartsSource
from peftbench.data.pixels.decode import image_size
from peftbench.data.raw import RawSplit
from peftbench.data.sources.image_lists import ImageList, image_sizes, listed_files, lists_digest
from peftbench.data.sources.labels import refuse_one_class
from peftbench.data.sources.map_files import MapFile
from peftbench.data.sources.mask_forms import Found, Samples, ade20k, camvid, cityscapes, folders, voc, voc_aug
from peftbench.data.sources.own_folder import OwnFolder
from peftbench.data.sources.several_maps import nyud, pascal_mt
from peftbench.data.splits import FileSplit
from peftbench.foundation.digests import files_digest
from peftbench.foundation.errors import BadInput, MissingInput
from peftbench.foundation.spec import option

if TYPE_CHECKING:
    from PIL.Image import Image

FORMS: dict[str, Callable[[Path], Found]] = {
    form.__name__: form for form in (folders, camvid, ade20k, voc, voc_aug, cityscapes, nyud, pascal_mt)
}
# of maps beside class maps: raise it when any of them is read in another way
READING = 1


@DATASETS.add("masks")
@dataclass(frozen=True)
class Masks(OwnFolder):
    """Images with masks in `root`, laid out in one of the known forms (`data.sources.mask_forms`, with other maps
    `data.sources.several_maps`).

    `form`: which one.
    """

    form: str = option("folders", choices=tuple(FORMS))

    def revision(self) -> str:
        found = self._found()
        self._refuse_lonely(found)
        digest = lists_digest(self._place(), _lists(found), self.follow_links)
        about = (
            "\n".join([digest, *found.class_names, *(f"{name} v{READING}" for name in found.others)]).encode()
            + found.numbers.tobytes()
        )
        return hashlib.sha256(about).hexdigest()

    def check(self) -> None:
        self._pairs()

    def inputs(self) -> list[Path]:
        return [*listed_files(self._place(), _lists(self._found())), self._place() / "classes.txt"]

    def open(self) -> Source:
        found = self._pairs()
        root = self._place()
        splits = {part: MaskSplit(root, samples, found) for part, samples in found.parts.items()}
        return self._source(MaskSource, found.class_names, splits)

    def _found(self) -> Found:
        layout = " ".join((FORMS[self.form].__doc__ or "").split(";")[0].split()).rstrip(".")
        place = self._folder(layout)
        try:
            return FORMS[self.form](place)
        except MissingInput as error:
            raise MissingInput(f"{self.label}: {error}; dataset.form={self.form} takes {layout}") from error

    def _pairs(self) -> Found:
        """The pairs, all of whose files are there. Raises `BadInput` for those that are not."""
        found, root = self._found(), self._place()
        if not found.class_names:
            raise MissingInput(f"{root}: no classes.txt; write the names of the classes into it, in order, one a line")
        refuse_one_class(self.label, found.class_names)
        self._refuse_lonely(found)
        image_sizes(
            root, [file for samples in found.parts.values() for s in samples for file in s.files], self.follow_links
        )
        return found

    def _refuse_lonely(self, found: Found) -> None:
        """Raises `BadInput` for images whose masks are not there."""
        root = self._place()
        for part, samples in found.parts.items():
            lonely = [(s.image, file) for s in samples for file in s.files[1:] if not (root / file).is_file()]
            if lonely:
                image, file = lonely[0]
                count = len({image for image, _ in lonely})
                raise BadInput(
                    f"{root}: {count} of {len(samples)} images of {part} have no mask, first {image}, whose mask "
                    f"would be {file}; put it there, or take the image away"
                )


def _lists(found: Found) -> dict[str, ImageList]:
    """Every part's images and maps as one list of files."""
    names = {part: [file for sample in samples for file in sample.files] for part, samples in found.parts.items()}
    return {part: ImageList(tuple(files), np.zeros(len(files), np.int64)) for part, files in names.items()}


@dataclass(frozen=True)
class MaskSource(PartsSource):
    """Parts whose images have maps."""

    @property
    def targets(self) -> tuple[str, ...]:
        return self.given_train.maps


class MaskSplit(RawSplit):
    """Image files with the files of their maps, and how each kind of map is read."""

    def __init__(self, root: Path, samples: Samples, found: Found) -> None:
        self._root, self._samples, self._found = root, samples, found
        self.maps = tuple(found.readers)
        self.labels = np.zeros(len(samples), np.int64)
        self._images = FileSplit([root / sample.image for sample in samples], self.labels)

    def content_digest(self) -> str:
        parts = self._images.content_digest()
        for name in self.maps:
            files = [self._root / file for sample in self._samples for file in sample.maps[name]]
            # the reading of maps beside the class map is part of what they are
            parts += files_digest(files) + ("" if name == "class_map" else f"{name} read v{READING}")
        return hashlib.sha256(parts.encode() + self._found.numbers.tobytes()).hexdigest()

    def read(self, index: int) -> Image:
        return self._images.read(index)

    def read_map(self, name: str, index: int) -> np.ndarray:
        sample = self._samples[index]
        image = MapFile.at(self._root / sample.image)
        files = [MapFile.at(self._root / file) for file in sample.maps[name]]
        return self._found.readers[name](files, image_size(image.data, image.name))

    def take(self, rows: np.ndarray) -> MaskSplit:
        return MaskSplit(self._root, [self._samples[row] for row in rows.tolist()], self._found)

    def describe(self, index: int) -> str:
        sample = self._samples[index]
        return str(self._root / (sample.image if self._found.others else sample.maps["class_map"][0]))
