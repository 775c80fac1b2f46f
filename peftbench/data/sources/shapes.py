"""Drawn images with structured labels, in the spirit of dSprites and CLEVR: data for everywhere, made of nothing.

Every image is 64 x 64 RGB: filled shapes on a smooth two-coloured background, with sensor noise. Colours, sizes, kinds,
positions and background vary freely and say nothing about the label. An image depends on (task, seed, index) only.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from peftbench.data.base import DATASETS, DatasetSpec, Source
from peftbench.data.drawn import BOUNDS, random_of
from peftbench.data.outlines import mask_of, smooth_field
from peftbench.data.raw import RawSplit
from peftbench.foundation.spec import option

if TYPE_CHECKING:
    from PIL.Image import Image

# Part of every digest: change it when any pixel changes, or caches and records of the old drawing would be reused.
VERSION = 1
SIZE = 64

CLASSES = {
    "location": tuple(f"row{row}_column{column}" for row in range(4) for column in range(4)),
    "orientation": tuple(f"{degrees}_degrees" for degrees in range(0, 360, 45)),
    "count": tuple(str(count) for count in range(1, 9)),
}


@DATASETS.add("shapes")
@dataclass(frozen=True)
class Shapes(DatasetSpec):
    """800 / 200 / 1,000 drawn images, classes balanced.

    `location`: which cell of a 4 x 4 grid holds the centre of the only shape.
    `orientation`: where a pointed shape points, in 8 bins of 45 degrees. `count`: how many shapes there are, 1 to 8.
    """

    task: str = option("location", choices=tuple(CLASSES))
    seed: int = option(0, ge=0)

    @property
    def label(self) -> str:
        return f"shapes_{self.task}"

    @property
    def group(self) -> str:
        return "structured"

    def revision(self) -> str:
        return f"shapes-v{VERSION}-seed{self.seed}"

    def open(self) -> Source:
        return ShapesSource(
            class_names=CLASSES[self.task],
            membership=f"synthetic:v{VERSION}",
            pixels="original",
            test=f"synthetic:{BOUNDS['test'][1] - BOUNDS['test'][0]}",
            notes=(),
            task=self.task,
            seed=self.seed,
        )


@dataclass(frozen=True)
class ShapesSource(Source):
    """Draws on demand."""

    task: str
    seed: int

    def split(self, name: str) -> RawSplit:
        return ShapesSplit(self.task, self.seed, *BOUNDS[name])


class ShapesSplit(RawSplit):
    """Images `start` to `stop` of the endless sequence of one task and seed."""

    def __init__(self, task: str, seed: int, start: int, stop: int) -> None:
        self.task, self.seed, self.start = task, seed, start
        self.labels = np.arange(start, stop, dtype=np.int64) % len(CLASSES[task])

    def content_digest(self) -> str:
        # The recipe stands for the pixels: drawing them all only to hash them would cost seconds at every start.
        recipe = f"shapes-v{VERSION}:{self.task}:{self.seed}:{self.start}:{len(self)}"
        return hashlib.sha256(recipe.encode()).hexdigest()

    def read(self, index: int) -> Image:
        from PIL import Image

        return Image.fromarray(draw(self.task, self.seed, self.start + index, int(self.labels[index])))


def draw(task: str, seed: int, index: int, label: int) -> np.ndarray:
    """The image at `index` of the sequence, showing `label`: uint8 [64, 64, 3]."""
    random = random_of(task, seed, index)
    canvas = smooth_field(random, SIZE, lambda: random.uniform(20, 235, 3))
    for kind, centre, radius, angle in _LAYOUTS[task](random, label):
        window, mask = mask_of(kind, centre, radius, angle, SIZE)
        canvas[window] += mask[..., None] * (_contrasting(random, canvas[window], mask) - canvas[window])
    canvas += random.normal(0.0, random.uniform(2.0, 10.0), canvas.shape)
    result: np.ndarray = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
    return result


_KINDS = ("disc", "square", "triangle", "ring")
Shape = tuple[str, tuple[float, float], float, float]  # kind, centre (x, y) and radius in pixels, angle in radians


def _location(random: np.random.RandomState, label: int) -> list[Shape]:
    radius = random.uniform(5.0, 9.0)
    row, column = divmod(label, 4)
    cell = SIZE / 4
    # Kept off the cell's border by an eighth of a cell, where the label would be a coin toss.
    x, y = (column + random.uniform(0.125, 0.875)) * cell, (row + random.uniform(0.125, 0.875)) * cell
    centre = (min(max(x, radius), SIZE - radius), min(max(y, radius), SIZE - radius))
    return [(_KINDS[random.randint(4)], centre, radius, random.uniform(0, 2 * math.pi))]


def _orientation(random: np.random.RandomState, label: int) -> list[Shape]:
    radius = random.uniform(14.0, 24.0)
    centre = (random.uniform(radius, SIZE - radius), random.uniform(radius, SIZE - radius))
    # The middle half of each bin is used, so that neighbouring bins stay apart.
    angle = math.radians(45 * label + random.uniform(-12.0, 12.0))
    return [(("arrow", "dart", "drop")[random.randint(3)], centre, radius, angle)]


def _count(random: np.random.RandomState, label: int) -> list[Shape]:
    placed = _apart(random, label + 1, 4.5, 8.0)
    return [(_KINDS[random.randint(4)], centre, radius, random.uniform(0, 2 * math.pi)) for centre, radius in placed]


_LAYOUTS = {"location": _location, "orientation": _orientation, "count": _count}


def _apart(
    random: np.random.RandomState, number: int, smallest: float, largest: float
) -> list[tuple[tuple[float, float], float]]:
    """`number` circles (centre, radius) inside the image, at least 2.5 pixels from each other."""
    placed: list[tuple[tuple[float, float], float]] = []
    while len(placed) < number:
        for _ in range(50):
            radius = random.uniform(smallest, largest)
            centre = (random.uniform(radius, SIZE - radius), random.uniform(radius, SIZE - radius))
            if all(math.dist(centre, other) >= radius + size + 2.5 for other, size in placed):
                placed.append((centre, radius))
                break
        else:
            # A bad start can leave no room: begin again, a little smaller.
            placed, largest = [], max(smallest, largest - 1.0)
    return placed


def _contrasting(random: np.random.RandomState, canvas: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A colour far enough from what it will be drawn on: float64 [3]."""
    under = (canvas * mask[..., None]).sum((0, 1)) / mask.sum()
    while True:
        colour: np.ndarray = random.uniform(0, 255, 3)
        if np.abs(colour - under).max() >= 90:
            return colour
