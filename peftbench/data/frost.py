"""Frost on the lens (Hendrycks & Dietterich, ICLR 2019): the corruption that lays photographs over images.

The photographs do not ship. They are read from a folder, or from where the package `imagecorruptions` is installed
(`pip install --no-deps imagecorruptions`), none of whose code is run.
"""

from __future__ import annotations

import math
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from peftbench.foundation.errors import BadInput, MissingInput

Pixels = NDArray[np.uint8]

# the authors' code draws among five of its six
NAMES = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
# below 64 px it takes every fifth row and column, the middle of five
_STEP = 5


def frost_folder(named: Path | None = None) -> Path:
    """The folder of the photographs. Raises `MissingInput` where there is none."""
    if named is not None:
        return named
    package = find_spec("imagecorruptions")
    places = [] if package is None else list(package.submodule_search_locations or [])
    found = [Path(place) / "frost" for place in places if (Path(place) / "frost").is_dir()]
    if not found:
        raise MissingInput(
            f"frost needs the authors' photographs ({NAMES[0]}, ...), which do not ship: --frost FOLDER, or "
            "pip install --no-deps imagecorruptions"
        )
    return found[0]


@lru_cache(maxsize=1)
def frost_photos(folder: Path) -> tuple[Pixels, ...]:
    """The five photographs, uint8 [height, width, 3]. Raises `MissingInput` and `BadInput`."""
    photos = []
    for name in NAMES:
        if not (folder / name).is_file():
            raise MissingInput(f"{folder} has no {name}; frost lays five photographs over images, {', '.join(NAMES)}")
        try:
            with Image.open(folder / name) as picture:
                photos.append(np.asarray(picture.convert("RGB")))
        except (OSError, ValueError) as error:
            raise BadInput(f"{folder / name} is no picture: {error}") from error
    return tuple(photos)


def frost(
    image: Pixels,
    strength: tuple[float, float],
    generator: np.random.Generator,
    photos: tuple[Pixels, ...],
    small: bool,
) -> Pixels:
    """clip(a x + b f), rounded down, f a random piece of a random photograph, (a, b) the strength.

    `small`: of the photograph at a fifth of its size, as for CIFAR-10-C. One that is smaller than the image, which the
    authors' never are, is enlarged to hold it.
    """
    height, width = image.shape[:2]
    photo = photos[generator.integers(len(photos))]
    if small:
        photo = _fifth(photo)
    photo = _holding(photo, height + 1, width + 1)
    top, left = generator.integers(photo.shape[0] - height), generator.integers(photo.shape[1] - width)
    piece = photo[top : top + height, left : left + width]
    laid: Pixels = np.clip(strength[0] * image + strength[1] * piece, 0, 255).astype(np.uint8)
    return laid


def _fifth(photo: Pixels) -> Pixels:
    """A photograph at a fifth of its size, as OpenCV's linear interpolation gives it, which falls on whole pixels."""
    rows, columns = (
        np.minimum(_STEP * np.arange(round(side / _STEP)) + _STEP // 2, side - 1) for side in photo.shape[:2]
    )
    return photo[rows[:, None], columns]


def _holding(photo: Pixels, height: int, width: int) -> Pixels:
    scale = max(height / photo.shape[0], width / photo.shape[1])
    if scale <= 1:
        return photo
    size = math.ceil(photo.shape[1] * scale), math.ceil(photo.shape[0] * scale)
    return np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BICUBIC))
