"""Pixels of single samples, and of a split too large to keep decoded or whose crop differs every epoch: decoded when
asked for.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from peftbench.data.base import RawSplit
from peftbench.data.pixels.transform import ImageTransform


def sample_shape(raw: RawSplit, transform: ImageTransform) -> tuple[int, ...]:
    """[size, size] of an image, [frames, size, size] of a clip."""
    return (*((raw.frames,) if raw.frames > 1 else ()), transform.size, transform.size)


def sample_pixels(
    raw: RawSplit,
    index: int,
    transform: ImageTransform,
    place: tuple[float, float] | None = None,
    moments: np.ndarray | None = None,
) -> np.ndarray:
    """One sample, transformed: uint8 [size, size, 1 or 3], of a clip [frames, size, size, 1 or 3].

    `place`: see `ImageTransform.apply`; all frames of a clip are cut at the same one. `moments`: `RawSplit.read_clip`.
    """
    if raw.frames == 1:
        return transform.apply(raw.read(index), place)
    made = [transform.apply(frame, place) for frame in raw.read_clip(index, moments)]
    # grey frames among coloured ones spread over the channels
    shape = transform.size, transform.size, max(frame.shape[-1] for frame in made)
    return np.stack([np.broadcast_to(frame, shape) for frame in made])


class StreamedImages:
    """Reads like a uint8 array [num_images, (frames,) size, size, 3], decoding the rows that are asked for."""

    def __init__(self, raw: RawSplit, transform: ImageTransform) -> None:
        self.shape: tuple[int, ...] = (len(raw), *sample_shape(raw, transform), 3)
        self.dtype: np.dtype[Any] = np.dtype(np.uint8)
        self.nbytes = int(np.prod(self.shape))
        self._raw, self._transform = raw, transform

    @property
    def draws_frames(self) -> bool:
        return self._raw.draws_frames

    def read(self, rows: np.ndarray, places: np.ndarray | None = None, moments: np.ndarray | None = None) -> np.ndarray:
        """uint8 [num_rows, (frames,) size, size, 3].

        `places`: float [num_rows, 2], see `ImageTransform.apply`; `moments`: float [num_rows, frames], see `RawSplit`.
        """
        images = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for i, row in enumerate(rows.tolist()):
            place = None if places is None else (float(places[i, 0]), float(places[i, 1]))
            # a grey picture spreads over the channels
            images[i] = sample_pixels(self._raw, row, self._transform, place, None if moments is None else moments[i])
        return images
