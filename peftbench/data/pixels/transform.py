"""The deterministic part of preprocessing: one picture to one square uint8 array."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from peftbench.data.boxes import shifted

if TYPE_CHECKING:
    from PIL.Image import Image

RESIZES = ("squash", "crop", "squash_crop")
INTERPOLATIONS = ("bicubic", "bilinear")


@dataclass(frozen=True)
class ImageTransform:
    """Resize to `size` x `size` pixels.

    `resize`: "squash" goes straight to the square, ignoring the aspect ratio (the VTAB protocol); "crop" brings the
    short side to size / crop_pct and cuts out the centre (timm's evaluation); "squash_crop" does so from a square of
    size / crop_pct. `along` says where the square is cut on the
    longer side, from 0 to 1 (its two ends); half a pixel over is rounded, or with `floors` left out, as the loaders of
    clips do. `antialias` off samples the source at
    half-pixel centres only, whatever the reduction.
    """

    size: int
    resize: str = "squash"
    interpolation: str = "bicubic"
    antialias: bool = True
    crop_pct: float = 1.0
    along: float = 0.5
    floors: bool = False

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 < self.crop_pct <= 1:
            raise ValueError(f"size must be at least 1 and crop_pct in (0, 1], got {self.size} and {self.crop_pct}")
        if self.resize not in RESIZES or self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"resize is one of {RESIZES} and interpolation one of {INTERPOLATIONS}")

    def key(self) -> str:
        """Text that is equal for two transforms exactly when they make the same pixels."""
        resize = self.resize if self.resize == "squash" else f"{self.resize}{self.crop_pct!r}"
        along = "" if self.along == 0.5 else f"-along{self.along!r}"
        along += "-floors" if self.floors and self.resize != "squash" else ""
        return f"{resize}-{self.size}-{self.interpolation}-{'antialias' if self.antialias else 'point'}{along}"

    def apply(self, image: Image, place: tuple[float, float] | None = None) -> np.ndarray:
        """`image` (mode RGB or L) as uint8 [size, size, 3 or 1].

        `place`: (down, across) in [0, 1), where in the resized picture the square is cut out; None is the centre.
        """
        width, height = self._resized(image.width, image.height)
        pixels = self.resampled(image, width, height)
        if place is None:
            top, left = self._whole((height - self.size) / 2), self._whole((width - self.size) / 2)
            if height > width:
                top = self._whole((height - self.size) * self.along)
            elif width > height:
                left = self._whole((width - self.size) * self.along)
        else:
            top = math.floor(place[0] * (height - self.size + 1))
            left = math.floor(place[1] * (width - self.size + 1))
        pixels = pixels[top : top + self.size, left : left + self.size]
        return pixels[..., None] if pixels.ndim == 2 else pixels

    def _whole(self, place: float) -> int:
        return math.floor(place) if self.floors else round(place)

    def apply_map(self, values: np.ndarray) -> np.ndarray:
        """A map [..., height, width] of the same geometry, each pixel the nearest one's: [..., size, size]."""
        height, width = values.shape[-2:]
        new_width, new_height = self._resized(width, height)
        top, left = round((new_height - self.size) / 2), round((new_width - self.size) / 2)
        rows = np.floor((np.arange(self.size) + top + 0.5) * (height / new_height)).astype(np.int64)
        columns = np.floor((np.arange(self.size) + left + 0.5) * (width / new_width)).astype(np.int64)
        resized: np.ndarray = values[..., rows[:, None], columns]
        return resized

    def apply_boxes(self, boxes: np.ndarray, width: int, height: int) -> np.ndarray:
        """Boxes [num, 6] of an image of that size, of the same geometry."""
        new_width, new_height = self._resized(width, height)
        origin = round((new_width - self.size) / 2), round((new_height - self.size) / 2)
        return shifted(boxes, (new_width / width, new_height / height), origin, self.size)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        if self.resize == "squash":
            return self.size, self.size
        short = math.floor(self.size / self.crop_pct)
        if self.resize == "squash_crop":
            return short, short
        long = int(short * max(width, height) / min(width, height))
        return (short, long) if width <= height else (long, short)

    def resampled(self, image: Image, width: int, height: int) -> np.ndarray:
        """`image` in that size: uint8 [height, width, 3], or [height, width] of mode L."""
        from PIL.Image import Resampling

        if (image.width, image.height) == (width, height):
            return np.asarray(image)
        if self.antialias:
            return np.asarray(image.resize((width, height), Resampling[self.interpolation.upper()]))
        pixels = np.asarray(image, dtype=np.float32)
        cubic = self.interpolation == "bicubic"
        pixels = _sample_rows(_sample_rows(pixels, height, cubic).swapaxes(0, 1), width, cubic).swapaxes(0, 1)
        result: np.ndarray = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
        return result


def _sample_rows(pixels: np.ndarray, num_rows: int, cubic: bool) -> np.ndarray:
    """Interpolate float32 `pixels` [rows, ...] at `num_rows` half-pixel centres, clamping at the border.

    Cubic weights are Keys' with a = -0.5, the kernel of Pillow's own bicubic.
    """
    centres = (np.arange(num_rows) + 0.5) * (len(pixels) / num_rows) - 0.5
    first = np.floor(centres).astype(np.int64)
    result = np.zeros((num_rows, *pixels.shape[1:]), dtype=np.float32)
    for offset in (-1, 0, 1, 2) if cubic else (0, 1):
        distance = np.abs(centres - (first + offset))
        near = (1.5 * distance - 2.5) * distance**2 + 1
        far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        weight = np.where(distance <= 1, near, far) if cubic else 1 - distance
        rows = pixels[np.clip(first + offset, 0, len(pixels) - 1)]
        result += rows * weight.astype(np.float32).reshape(-1, *([1] * (pixels.ndim - 1)))
    return result
