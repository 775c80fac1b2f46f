"""Frost on the lens (Hendrycks & Dietterich, ICLR 2019): the corruption that lays photographs over images.

The photographs do not ship. They are read from a folder, or from where the package `imagecorruptions` is installed
(`pip install --no-deps imagecorruptions`), none of whose code is run.
"""

from __future__ import annotations

import math
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from peftbench.foundation.errors import BadInput, MissingInput

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

# the authors' code draws among five of its six
NAMES = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")


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
    image: Pixels, strength: tuple[float, float, float], generator: np.random.Generator, photos: tuple[Pixels, ...]
) -> Pixels:
    """clip(a x + b f), rounded down, f a random piece of a random photograph at `scale`; (a, b, scale) the strength.

    A photograph that is smaller there than the image, which the authors' never are, is enlarged to hold it.
    """
    kept, laid, scale = strength
    height, width = image.shape[:2]
    photo = _holding(
        photos[generator.integers(len(photos))], math.ceil((height + 1) / scale), math.ceil((width + 1) / scale)
    )
    rows, columns = (_places(side, scale) for side in photo.shape[:2])
    top, left = generator.integers(len(rows) - height), generator.integers(len(columns) - width)
    piece = _between(photo, rows[top : top + height], columns[left : left + width])
    frosted: Pixels = np.clip(kept * image + laid * piece, 0, 255).astype(np.uint8)
    return frosted


def _places(side: int, scale: float) -> Floats:
    """Where in a photograph the rows, or columns, of its copy at `scale` lie, as OpenCV's resize has it."""
    centres = (np.arange(round(side * scale)) + 0.5) / scale - 0.5
    return np.clip(centres, 0, side - 1)


def _between(photo: Pixels, rows: Floats, columns: Floats) -> Pixels:
    """Values at these places, linear between pixels and rounded."""
    found: NDArray[Any] = photo
    for axis, places in enumerate((rows, columns)):
        before = places.astype(int)
        share = np.expand_dims(places - before, (1 - axis, 2))
        near = found.take(before, axis)
        if share.any():
            after = found.take(np.minimum(before + 1, found.shape[axis] - 1), axis)
            near = near * (1 - share) + after * share
        found = near
    return np.rint(found).astype(np.uint8)


def _holding(photo: Pixels, height: int, width: int) -> Pixels:
    scale = max(height / photo.shape[0], width / photo.shape[1])
    if scale <= 1:
        return photo
    size = math.ceil(photo.shape[1] * scale), math.ceil(photo.shape[0] * scale)
    return np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BICUBIC))
