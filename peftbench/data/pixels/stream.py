"""Pixels of single samples, and of a split too large to keep decoded or whose crop differs every epoch: decoded when
asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from peftbench.data.pixels.changes import Changes, Look
from peftbench.data.pixels.transform import ImageTransform
from peftbench.data.raw import RawSplit

UNCHANGED = Changes()


def sample_shape(raw: RawSplit, transform: ImageTransform) -> tuple[int, ...]:
    """[size, size] of an image, [frames, size, size] of a clip."""
    return (*((raw.frames,) if raw.frames > 1 else ()), transform.size, transform.size)


def sample_pixels(
    raw: RawSplit,
    index: int,
    transform: ImageTransform,
    look: Look | None = None,
    moments: np.ndarray | None = None,
) -> np.ndarray:
    """One sample, transformed: uint8 [size, size, 1 or 3], of a clip [frames, size, size, 1 or 3].

    `look`: what makes each picture of it, if not the transform as it is. `moments`: `RawSplit.read_clip`.
    """
    look = look or transform.apply
    if raw.frames == 1:
        return look(raw.read(index))
    made = [look(frame) for frame in raw.read_clip(index, moments)]
    # grey frames among coloured ones spread over the channels
    shape = transform.size, transform.size, max(frame.shape[-1] for frame in made)
    return np.stack([np.broadcast_to(frame, shape) for frame in made])


class StreamedImages:
    """Reads like a uint8 array [num_images, (frames,) size, size, 3], decoding the rows that are asked for.

    `changes`: what is done to pictures that are read with numbers for `cut` or `ops`.
    """

    def __init__(self, raw: RawSplit, transform: ImageTransform, changes: Changes = UNCHANGED) -> None:
        self.shape: tuple[int, ...] = (len(raw), *sample_shape(raw, transform), 3)
        self.dtype: np.dtype[Any] = np.dtype(np.uint8)
        self.nbytes = int(np.prod(self.shape))
        self._raw, self._transform, self._changes = raw, transform, changes

    @property
    def draws_frames(self) -> bool:
        return self._raw.draws_frames

    def read(self, rows: np.ndarray, drawn: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
        """uint8 [num_rows, (frames,) size, size, 3].

        `drawn` for each row, any of: `place` float [num_rows, 2], see `ImageTransform.apply`; `moment` float [num_rows,
        frames], see `RawSplit`; `cut`, `ops` int [num_rows], see `Changes.look`.
        """
        images = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for i, row in enumerate(rows.tolist()):
            own = {name: values[i] for name, values in (drawn or {}).items()}
            moments = own.pop("moment", None)
            look = self._changes.look(self._transform, **{name: value.tolist() for name, value in own.items()})
            # a grey picture spreads over the channels
            images[i] = sample_pixels(self._raw, row, self._transform, look, moments)
        return images
