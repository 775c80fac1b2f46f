"""Images and masks of one stored split of a Hugging Face set, read row by row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from peftbench.data.pixels.decode import decode_image, image_size
from peftbench.data.raw import RawSplit
from peftbench.data.sources.hf_files import OwnedFiles
from peftbench.data.sources.map_files import ClassNumbers, MapFile
from peftbench.foundation.errors import BadInput

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image


class HfSplit(RawSplit):
    """Chosen rows of a stored split."""

    def __init__(self, images: EncodedImages, rows: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.rows, self.labels = images, rows, labels

    def content_digest(self) -> str:
        digest = hashlib.sha256()
        for _, data in self.images.encoded(self.rows):
            digest.update(hashlib.sha256(data).digest())
        return digest.hexdigest()

    def read(self, index: int) -> Image:
        [(name, data)] = self.images.encoded(self.rows[index : index + 1])
        return decode_image(data, name)

    def take(self, rows: np.ndarray) -> HfSplit:
        return HfSplit(self.images, self.rows[rows], self.labels[rows])


class HfMaskSplit(HfSplit):
    """The same with a mask beside each image; `numbers` (uint8 [256]) says what a mask's numbers mean."""

    maps = ("class_map",)

    def __init__(self, images: EncodedImages, rows: np.ndarray, masks: EncodedImages, numbers: np.ndarray) -> None:
        super().__init__(images, rows, np.zeros(len(rows), np.int64))
        self.masks, self.numbers = masks, numbers

    def content_digest(self) -> str:
        digest = hashlib.sha256(super().content_digest().encode() + self.numbers.tobytes())
        for _, data in self.masks.encoded(self.rows):
            digest.update(hashlib.sha256(data).digest())
        return digest.hexdigest()

    def read_map(self, name: str, index: int) -> np.ndarray:
        row = self.rows[index : index + 1]
        [(image, pixels)], [(mask, data)] = self.images.encoded(row), self.masks.encoded(row)
        return ClassNumbers(self.numbers)([MapFile(data, mask)], image_size(pixels, image))

    def take(self, rows: np.ndarray) -> HfMaskSplit:
        return HfMaskSplit(self.images, self.rows[rows], self.masks, self.numbers)

    def describe(self, index: int) -> str:
        return f"{self.masks.place} row {self.rows[index]}"


class EncodedImages:
    """The image column of one stored split, read row by row from the memory-mapped table."""

    def __init__(self, table: Dataset, column: str, place: str, owned: OwnedFiles | None) -> None:
        self._table, self._column, self.place, self._owned = table, column, place, owned

    def encoded(self, rows: np.ndarray) -> Iterator[tuple[str, bytes]]:
        """(name for messages, encoded bytes) of the given rows, in order."""
        for start in range(0, len(rows), 500):
            chunk = rows[start : start + 500]
            for row, cell in zip(chunk, self._table[chunk][self._column], strict=True):
                name = f"{self.place} row {row}"
                yield name, _bytes_of(cell, name, self._owned)


def _bytes_of(cell: dict[str, Any] | None, name: str, owned: OwnedFiles | None) -> bytes:
    if cell and cell.get("bytes") is not None:
        return bytes(cell["bytes"])
    path = cell.get("path") if cell else None
    if not path:
        raise BadInput(f"{name}: no image stored")
    if owned is None:
        raise BadInput(
            f"{name}: only a path is stored ({path}) and a hub's table must hold its images; download the dataset and "
            "set dataset.path to its folder"
        )
    return owned.image(path, name)
