"""The kinds of split most datasets need: arrays in memory and image files on disk."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from peftbench.data.base import RawSplit
from peftbench.data.decode import decode_image
from peftbench.data.digests import files_digest
from peftbench.errors import BadInput

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


class FileSplit(RawSplit):
    """Image files, in order."""

    def __init__(self, paths: list[Path], labels: np.ndarray) -> None:
        self.paths = paths
        self.labels = np.asarray(labels, dtype=np.int64)

    def content_digest(self) -> str:
        return files_digest(self.paths)

    def read(self, index: int) -> Image:
        path = self.paths[index]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BadInput(f"{path}: the image cannot be read ({error.strerror})") from error
        return decode_image(data, str(path))

    def describe(self, index: int) -> str:
        return str(self.paths[index])
