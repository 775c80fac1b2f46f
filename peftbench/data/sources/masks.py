"""Segmentation sets as files: an image and a mask of class numbers each."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from peftbench.data.base import DATASETS, GROUPS, PIXELS, DatasetSpec, RawSplit, Source
from peftbench.data.parts import PartsSource
from peftbench.data.sources.image_lists import ImageList, image_sizes, listed_files, lists_digest
from peftbench.data.sources.labels import refuse_one_class
from peftbench.data.sources.mask_forms import FORMS, Found, Pairs
from peftbench.data.splits import FileSplit
from peftbench.foundation.digests import files_digest
from peftbench.foundation.errors import BadInput, MissingInput
from peftbench.foundation.location import user_path
from peftbench.foundation.spec import option

if TYPE_CHECKING:
    from PIL.Image import Image


@DATASETS.add("masks")
@dataclass(frozen=True)
class Masks(DatasetSpec):
    """Images with masks in `root`, laid out in one of the known forms (`data.sources.mask_forms`).

    `root` may also be a folder that holds one called `title`, so that one word serves a suite. `title`: what tables
    print. `split_seed` decides which tenth of the training images validates where the form has no validation images of
    its own, and VTAB-sized draws.
    """

    root: str | None = option(None, location=True)
    form: str = option("folders", choices=tuple(FORMS))
    title: str | None = option(None)
    group_name: str = option("dense", choices=GROUPS)
    pixels: str = option("unknown", choices=PIXELS)
    split_seed: int = option(0, ge=0)
    follow_links: bool = option(False, location=True)

    @property
    def label(self) -> str:
        return self.title or (self._place().name if self.root else "masks")

    @property
    def group(self) -> str:
        return self.group_name

    def revision(self) -> str:
        found = self._found()
        digest = lists_digest(self._place(), _lists(found), self.follow_links)
        about = "\n".join([digest, *found.class_names]).encode() + found.numbers.tobytes()
        return hashlib.sha256(about).hexdigest()

    def check(self) -> None:
        self._pairs()

    def inputs(self) -> list[Path]:
        return [*listed_files(self._place(), _lists(self._found())), self._place() / "classes.txt"]

    def places(self) -> list[Path]:
        return [self._place()]

    def open(self) -> Source:
        found = self._pairs()
        root = self._place()
        splits = {part: MaskSplit(root, pairs, found.numbers) for part, pairs in found.parts.items()}
        return MaskSource(
            class_names=found.class_names,
            membership="full",
            pixels=self.pixels,
            test=f"own:{len(splits['test'])}",
            notes=(),
            given_train=splits["train"],
            given_val=splits.get("val"),
            test_part=splits["test"],
            seed=self.split_seed,
        )

    def _place(self) -> Path:
        place = user_path(self.root or "", "dataset.root").absolute()
        return place / self.title if self.root and self.title and (place / self.title).is_dir() else place

    def _found(self) -> Found:
        layout = (FORMS[self.form].__doc__ or "").split(";")[0].rstrip(".")
        if self.root is None:
            raise MissingInput(f"{self.label}: set dataset.root=<folder>, which holds {layout}")
        if not self._place().is_dir():
            raise MissingInput(f"{self.label}: dataset.root={self.root} is no folder; set it to one with {layout}")
        try:
            return FORMS[self.form](self._place())
        except MissingInput as error:
            raise MissingInput(f"{self.label}: {error}; dataset.form={self.form} takes {layout}") from error

    def _pairs(self) -> Found:
        """The pairs, all of whose files are there. Raises `BadInput` for those that are not."""
        found, root = self._found(), self._place()
        if not found.class_names:
            raise MissingInput(f"{root}: no classes.txt; write the names of the classes into it, in order, one a line")
        refuse_one_class(self.label, found.class_names)
        for part, pairs in found.parts.items():
            lonely = [(image, mask) for image, mask in pairs if not (root / mask).is_file()]
            if lonely:
                image, mask = lonely[0]
                raise BadInput(
                    f"{root}: {len(lonely)} of {len(pairs)} images of {part} have no mask, first {image}, whose mask "
                    f"would be {mask}; put it there, or take the image away"
                )
        image_sizes(
            root, [name for pairs in found.parts.values() for pair in pairs for name in pair], self.follow_links
        )
        return found


def _lists(found: Found) -> dict[str, ImageList]:
    """Every part's images and masks as one list of files."""
    names = {part: [name for pair in pairs for name in pair] for part, pairs in found.parts.items()}
    return {part: ImageList(tuple(files), np.zeros(len(files), np.int64)) for part, files in names.items()}


@dataclass(frozen=True)
class MaskSource(PartsSource):
    """Parts whose images have class maps."""

    @property
    def targets(self) -> tuple[str, ...]:
        return MaskSplit.maps


class MaskSplit(RawSplit):
    """Image files with a mask file each; `numbers` says what a mask's numbers mean."""

    maps = ("class_map",)

    def __init__(self, root: Path, pairs: Pairs, numbers: np.ndarray) -> None:
        self._root, self._pairs, self._numbers = root, pairs, numbers
        self.labels = np.zeros(len(pairs), np.int64)
        self._images = FileSplit([root / image for image, _ in pairs], self.labels)

    def content_digest(self) -> str:
        masks = files_digest([self._root / mask for _, mask in self._pairs])
        parts = self._images.content_digest() + masks
        return hashlib.sha256(parts.encode() + self._numbers.tobytes()).hexdigest()

    def read(self, index: int) -> Image:
        return self._images.read(index)

    def read_map(self, name: str, index: int) -> np.ndarray:
        path = self._root / self._pairs[index][1]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BadInput(f"{path}: the mask cannot be read ({error.strerror})") from error
        return read_mask(data, str(path), self.read(index).size, self._numbers)

    def take(self, rows: np.ndarray) -> MaskSplit:
        return MaskSplit(self._root, [self._pairs[row] for row in rows.tolist()], self._numbers)

    def describe(self, index: int) -> str:
        return str(self._root / self._pairs[index][1])


def read_mask(data: bytes, name: str, size: tuple[int, int], numbers: np.ndarray) -> np.ndarray:
    """Class numbers uint8 [height, width] of an encoded mask, each as `numbers` (uint8 [256]) says.

    Raises `BadInput` naming `name` for what is no mask, and for one that is not of `size` (width, height).
    """
    import io

    from PIL import Image, UnidentifiedImageError

    try:
        picture = Image.open(io.BytesIO(data))
        values = np.asarray(picture)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as error:
        raise BadInput(f"{name}: the mask cannot be decoded ({error}); copy it again") from error
    if values.ndim != 2:
        raise BadInput(
            f"{name}: a mask holds class numbers in one channel (grey or palette PNG), and this is a picture in mode "
            f"{picture.mode}; convert its colours to numbers"
        )
    if picture.size != size:
        raise BadInput(
            f"{name}: the mask has {picture.width} x {picture.height} pixels and its image {size[0]} x {size[1]}; "
            "they must be of one size"
        )
    if values.dtype != np.uint8 and (values.min() < 0 or values.max() > 255):
        raise BadInput(f"{name}: the mask holds {values.max()}; class numbers go up to 254, and 255 is unknown")
    mapped: np.ndarray = numbers[values.astype(np.uint8)]
    return mapped
