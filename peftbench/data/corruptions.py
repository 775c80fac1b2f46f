"""Corrupted copies of images at five severities (Hendrycks & Dietterich, ICLR 2019, arXiv:1903.12261).

Definitions and strengths are those of the authors' code for CIFAR-10-C, Tiny-ImageNet-C and ImageNet-C, whichever was
made for images of a like size (see `strengths`), on images as the network gets them. Of their nineteen, frost needs
photographs that are not this project's to ship (see `frost`). Images are uint8 [height, width, 3].
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from peftbench.data.frost import frost
from peftbench.data.ready import OnDemand
from peftbench.data.spatter import spatter
from peftbench.data.strengths import FROST, strength_of
from peftbench.data.weather import elastic_transform, floored, fog, glass_blur, motion_blur, snow
from peftbench.data.zoom import zoomed

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
Generator = np.random.Generator


def gaussian_noise(x: Floats, strength: Any, generator: Generator) -> Floats:
    return x + generator.normal(scale=strength, size=x.shape)


def shot_noise(x: Floats, strength: Any, generator: Generator) -> Floats:
    return generator.poisson(x * strength) / strength


def impulse_noise(x: Floats, strength: Any, generator: Generator) -> Floats:
    """A share of all values becomes 0 or 1, each half of the time."""
    hit, salt = generator.random((2, *x.shape))
    return np.where(hit < strength, np.where(salt < 0.5, 1.0, 0.0), x)


def speckle_noise(x: Floats, strength: Any, generator: Generator) -> Floats:
    return x + x * generator.normal(scale=strength, size=x.shape)


def gaussian_blur(x: Floats, strength: Any, generator: Generator) -> Floats:
    blurred: Floats = ndimage.gaussian_filter(x, (strength, strength, 0), mode="nearest")
    return blurred


def defocus_blur(x: Floats, strength: Any, generator: Generator) -> Floats:
    """A disk of `radius`, itself softened by a small Gaussian of deviation `alias`."""
    radius, alias = strength
    reach = 8 if radius <= 8 else radius
    grid = np.arange(-reach, reach + 1)
    disk = (grid[:, None] ** 2 + grid**2 <= radius**2).astype(float)
    half = 1 if radius <= 8 else 2
    line = np.exp(-(np.arange(-half, half + 1) ** 2) / (2 * alias**2))
    line /= line.sum()
    disk /= disk.sum()
    for axis in (0, 1):
        disk = ndimage.correlate1d(disk, line, axis=axis, mode="mirror")
    blurred: Floats = ndimage.correlate(x, disk[:, :, None], mode="mirror")
    return blurred


def zoom_blur(x: Floats, strength: Any, generator: Generator) -> Floats:
    """Mean of the image and of enlarged copies of its middle."""
    end, step = strength
    x = x.astype(np.float32)
    factors = np.arange(1, end, step)
    return (x + sum(zoomed(x, factor) for factor in factors)) / (len(factors) + 1)


def brightness(x: Floats, strength: Any, generator: Generator) -> Floats:
    hue, saturation, value = to_hsv(x)
    return from_hsv(hue, saturation, np.clip(value + strength, 0, 1))


def saturate(x: Floats, strength: Any, generator: Generator) -> Floats:
    factor, offset = strength
    hue, saturation, value = to_hsv(x)
    return from_hsv(hue, np.clip(saturation * factor + offset, 0, 1), value)


def contrast(x: Floats, strength: Any, generator: Generator) -> Floats:
    mean = x.mean(axis=(0, 1), keepdims=True)
    moved: Floats = (x - mean) * strength + mean
    return moved


def pixelate(image: Image.Image, strength: Any) -> Image.Image:
    size = image.size
    small = int(size[0] * strength), int(size[1] * strength)
    return image.resize(small, Image.Resampling.BOX).resize(size, Image.Resampling.BOX)


def jpeg_compression(image: Image.Image, strength: Any) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=strength)
    return Image.open(stream)


def to_hsv(x: Floats) -> tuple[Floats, Floats, Floats]:
    """RGB in 0..1 [..., 3] -> hue, saturation and value in 0..1; hue and saturation of grey are 0."""
    value, least = x.max(axis=-1), x.min(axis=-1)
    span = value - least
    safe = np.where(span > 0, span, 1)
    red, green, blue = np.moveaxis(x, -1, 0)
    sector = np.where(
        red == value,
        (green - blue) / safe,
        np.where(green == value, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = np.where(span > 0, (sector / 6) % 1, 0.0)
    return hue, np.where(value > 0, span / np.where(value > 0, value, 1), 0.0), value


def from_hsv(hue: Floats, saturation: Floats, value: Floats) -> Floats:
    """The inverse of `to_hsv`."""
    # each channel falls from the value by saturation * value within its two sectors (f(n) of 5, 3 and 1)
    channels = []
    for n in (5, 3, 1):
        k = (n + 6 * hue) % 6
        channels.append(value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1))
    return np.stack(channels, axis=-1)


_ON_VALUES: dict[str, Callable[[Floats, Any, Generator], Floats]] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "defocus_blur": defocus_blur,
    "zoom_blur": zoom_blur,
    "brightness": brightness,
    "contrast": contrast,
    "speckle_noise": speckle_noise,
    "gaussian_blur": gaussian_blur,
    "saturate": saturate,
    "snow": snow,
    "fog": fog,
    "elastic_transform": elastic_transform,
    "spatter": spatter,
}
_ON_BYTES: dict[str, Callable[[Pixels, Any, Generator], Pixels]] = {
    "glass_blur": glass_blur,
    "motion_blur": motion_blur,
}
_ON_PICTURES: dict[str, Callable[[Image.Image, Any], Image.Image]] = {
    "pixelate": pixelate,
    "jpeg_compression": jpeg_compression,
}


def corrupted(image: Pixels, name: str, severity: int, generator: Generator, photos: tuple[Pixels, ...] = ()) -> Pixels:
    """A corrupted copy of one image [height, width, 3]; values are rounded down, as in the authors' files.

    `photos`: what frost lays over it (`frost.frost_photos`).
    """
    strength = strength_of(name, severity, min(image.shape[:2]))
    if name == FROST:
        return frost(image, strength, generator, photos)
    if name in _ON_PICTURES:
        return np.asarray(_ON_PICTURES[name](Image.fromarray(image), strength))
    if name in _ON_BYTES:
        return _ON_BYTES[name](image, strength, generator)
    return floored(_ON_VALUES[name](image / 255.0, strength, generator))


class CorruptedImages:
    """Images of a split as one corruption shows them; what is drawn for an image depends on its place alone.

    Reads like a uint8 array [num, height, width, 3] of which rows are asked for.
    """

    def __init__(
        self, images: NDArray[Any] | OnDemand, name: str, severity: int, photos: tuple[Pixels, ...] = ()
    ) -> None:
        self.shape: tuple[int, ...] = (*images.shape[:-1], 3)
        self.dtype: np.dtype[Any] = np.dtype(np.uint8)
        self.nbytes = int(np.prod(self.shape))
        self._images, self._name, self._severity, self._photos = images, name, severity, photos

    def read(self, rows: NDArray[Any], drawn: Mapping[str, NDArray[Any]] | None = None) -> NDArray[Any]:
        """uint8 [num_rows, height, width, 3]; what is `drawn` for training plays no part in a test split."""
        stored = self._images
        clean = stored[rows] if isinstance(stored, np.ndarray) else stored.read(rows)
        clean = np.broadcast_to(clean, (*clean.shape[:-1], 3))
        stream = zlib.crc32(self._name.encode())
        return np.stack(
            [
                corrupted(
                    np.ascontiguousarray(image),
                    self._name,
                    self._severity,
                    np.random.default_rng([stream, self._severity, int(row)]),
                    self._photos,
                )
                for image, row in zip(clean, rows, strict=True)
            ]
        )
