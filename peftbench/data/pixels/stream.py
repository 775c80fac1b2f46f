"""Images of a split that is too large to keep decoded, or whose crop differs every epoch: decoded when asked for."""

from __future__ import annotations

from typing import Any

import numpy as np

from peftbench.data.base import RawSplit
from peftbench.data.pixels.transform import ImageTransform


class StreamedImages:
    """Reads like a uint8 array [num_images, size, size, 3], decoding the rows that are asked for."""

    def __init__(self, raw: RawSplit, transform: ImageTransform) -> None:
        self.shape: tuple[int, ...] = (len(raw), transform.size, transform.size, 3)
        self.dtype: np.dtype[Any] = np.dtype(np.uint8)
        self.nbytes = int(np.prod(self.shape))
        self._raw, self._transform = raw, transform

    def read(self, rows: np.ndarray, places: np.ndarray | None = None) -> np.ndarray:
        """uint8 [num_rows, size, size, 3]. `places`: float [num_rows, 2], see `ImageTransform.apply`."""
        images = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for i, row in enumerate(rows.tolist()):
            place = None if places is None else (float(places[i, 0]), float(places[i, 1]))
            images[i] = self._transform.apply(self._raw.read(row), place)  # a grey picture spreads over the channels
        return images
