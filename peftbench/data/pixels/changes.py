"""What is done to a picture whenever it is read in training: another part of it each time, and random operations.

All frames of a clip are changed alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from peftbench.data.pixels.transform import ImageTransform

if TYPE_CHECKING:
    from PIL.Image import Image

Box = tuple[int, int, int, int]
Look = Callable[["Image"], np.ndarray]
# (picture in mode RGB, interpolation, what chance is drawn from) -> picture of the same size
Operations = Callable[["Image", str, int], "Image"]

# the sides of TSN's crops in shares of the short side, and how many steps width and height may be apart
SCALES, MOST_STEPS_APART = (1.0, 0.875, 0.75, 0.66), 1
# the places of TSN's crops, in quarters of what is left over: corners, middle, middles of the sides, quarters
PLACES = ((0, 0), (4, 0), (0, 4), (4, 4), (2, 2), (0, 2), (4, 2), (2, 4), (2, 0), (1, 1), (3, 1), (1, 3), (3, 3))
_AREA, _RATIO, _ATTEMPTS = (0.08, 1.0), (3 / 4, 4 / 3), 10


@dataclass(frozen=True)
class Changes:
    """`cut` is one of

    - `whole_rrc_flip`: Inception's crop (arXiv:1409.4842), a box of 8 to 100 % of the whole picture;
    - `jitter_flip`: the short side is brought to a random number of pixels, `short_side` times the size, and a random
      square is cut out (SlowFast, ST-Adapter);
    - `scales_flip`: one of thirteen places and of ten shapes in shares of the short side (TSN, VideoMAE, AdaptFormer).

    Any other cuts nothing here. `operations` come ahead of it.
    """

    cut: str = "none"
    short_side: tuple[float, float] = (1.0, 1.15)
    operations: Operations | None = None

    def look(
        self,
        transform: ImageTransform,
        place: tuple[float, float] | None = None,
        cut: int | None = None,
        ops: int | None = None,
    ) -> Look:
        """A picture -> uint8 [size, size, 1 or 3].

        `place`: see `ImageTransform.apply`. `cut`, `ops`: what chance is drawn from; None leaves a part out.
        """

        def made(image: Image) -> np.ndarray:
            if ops is not None and self.operations is not None:
                image = self.operations(image.convert("RGB"), transform.interpolation, ops)
            if cut is None:
                return transform.apply(image, place)
            pixels = self._cut(image, transform, np.random.default_rng(cut))
            return pixels[..., None] if pixels.ndim == 2 else pixels

        return made

    def _cut(self, image: Image, transform: ImageTransform, chance: np.random.Generator) -> np.ndarray:
        size = transform.size
        if self.cut == "jitter_flip":
            low, high = (round(size * share) for share in self.short_side)
            short = round(chance.uniform(low, high))
            long = math.floor(short * max(image.size) / min(image.size))
            width, height = (short, long) if image.width <= image.height else (long, short)
            pixels = transform.resampled(image, width, height)
            top, left = (int(chance.integers(side - size + 1)) for side in (height, width))
            return pixels[top : top + size, left : left + size]
        box = tsn_box if self.cut == "scales_flip" else inception_box
        return transform.resampled(image.crop(box(image.size, size, chance)), size, size)


def inception_box(picture: tuple[int, int], size: int, chance: np.random.Generator) -> Box:
    """(left, top, right, bottom) in a picture of (width, height): the first of ten attempts that fits (torchvision's).

    If none does, the largest box in the middle whose sides are no further apart than 3 to 4.
    """
    width, height = picture
    for _ in range(_ATTEMPTS):
        area = width * height * chance.uniform(_AREA[0], _AREA[1])
        ratio = math.exp(chance.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            left, top = int(chance.integers(width - across + 1)), int(chance.integers(height - down + 1))
            return left, top, left + across, top + down
    across = min(width, round(height * _RATIO[1]))
    down = min(height, round(width / _RATIO[0]))
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down


def tsn_box(picture: tuple[int, int], size: int, chance: np.random.Generator) -> Box:
    """(left, top, right, bottom) in a picture of (width, height); sides within two pixels of `size` are `size`."""
    sides = [int(min(picture) * scale) for scale in SCALES]
    sides = [size if abs(side - size) < 3 and size <= min(picture) else side for side in sides]
    shapes = [
        (across, down)
        for i, down in enumerate(sides)
        for j, across in enumerate(sides)
        if abs(i - j) <= MOST_STEPS_APART
    ]
    across, down = (max(side, 1) for side in shapes[chance.integers(len(shapes))])
    place = PLACES[chance.integers(len(PLACES))]
    left, top = (
        share * ((whole - side) // 4) for share, whole, side in zip(place, picture, (across, down), strict=True)
    )
    return left, top, left + across, top + down
