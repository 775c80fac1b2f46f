"""The kinds of split most datasets need: arrays in memory and image files on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from peftbench.data.pixels.decode import decode_image
from peftbench.data.raw import RawSplit
from peftbench.data.texted import TextedSplit
from peftbench.foundation.digests import files_digest
from peftbench.foundation.errors import BadInput

if TYPE_CHECKING:
    from PIL.Image import Image


class ArraySplit(RawSplit):
    """Images held in memory. `images`: uint8 [num_images, height, width] (grey) or [num_images, height, width, 3]."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images = np.ascontiguousarray(images)
        self.labels = np.asarray(labels, dtype=np.int64)

    def content_digest(self) -> str:
        digest = hashlib.sha256(repr(self.images.shape).encode())
        digest.update(self.images.tobytes())
        return digest.hexdigest()

    def read(self, index: int) -> Image:
        from PIL import Image

        return Image.fromarray(self.images[index])

    def take(self, rows: np.ndarray) -> ArraySplit:
        return ArraySplit(self.images[rows], self.labels[rows])


class FileSplit(RawSplit):
    """Image files, in order; turned as their EXIF data say with `upright`."""

    def __init__(self, paths: list[Path], labels: np.ndarray, upright: bool = False) -> None:
        self.paths = paths
        self.labels = np.asarray(labels, dtype=np.int64)
        self.upright = upright

    def content_digest(self) -> str:
        digest = files_digest(self.paths)
        return hashlib.sha256(f"{digest}:upright".encode()).hexdigest() if self.upright else digest

    def read(self, index: int) -> Image:
        path = self.paths[index]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BadInput(f"{path}: the image cannot be read ({error.strerror})") from error
        return decode_image(data, str(path), self.upright)

    def take(self, rows: np.ndarray) -> FileSplit:
        return FileSplit([self.paths[row] for row in rows.tolist()], self.labels[rows], self.upright)

    def describe(self, index: int) -> str:
        return str(self.paths[index])


class JoinedSplit(RawSplit):
    """Two splits, one after the other."""

    def __init__(self, first: RawSplit, second: RawSplit) -> None:
        self._parts = (first, second)
        self.frames, self.draws_frames = first.frames, first.draws_frames and second.draws_frames
        self.labels = np.concatenate([first.labels, second.labels])
        self.maps = first.maps

    def content_digest(self) -> str:
        return hashlib.sha256("".join(part.content_digest() for part in self._parts).encode()).hexdigest()

    def read(self, index: int) -> Image:
        part, row = self._at(index)
        return part.read(row)

    def read_map(self, name: str, index: int) -> np.ndarray:
        part, row = self._at(index)
        return part.read_map(name, row)

    def size_of(self, index: int) -> tuple[int, int]:
        part, row = self._at(index)
        return part.size_of(row)

    def read_clip(self, index: int, moments: np.ndarray | None = None) -> list[Image]:
        part, row = self._at(index)
        return part.read_clip(row, moments)

    def unshown(self, index: int) -> Iterable[Image]:
        part, row = self._at(index)
        return part.unshown(row)

    def describe(self, index: int) -> str:
        part, row = self._at(index)
        return part.describe(row)

    def _at(self, index: int) -> tuple[RawSplit, int]:
        first, second = self._parts
        return (first, index) if index < len(first) else (second, index - len(first))


def joined(first: RawSplit, second: RawSplit) -> RawSplit:
    """The images of `first` followed by those of `second`."""
    if isinstance(first, FileSplit) and isinstance(second, FileSplit):
        # one list of files is hashed as one, and can be drawn from without hashing the rest
        return FileSplit(first.paths + second.paths, np.concatenate([first.labels, second.labels]), first.upright)
    if isinstance(first, TextedSplit) and isinstance(second, TextedSplit):
        answers = None
        if first.answers is not None and second.answers is not None:
            answers = np.concatenate([first.answers, second.answers])
        return TextedSplit(joined(first.images, second.images), first.texts + second.texts, answers)
    return JoinedSplit(first, second)
