"""Drawn images whose classes are pairs of words, a colour and a shape: for backbones that read class names.

The embedded pair (scripts/pretrain_pair_micro.py) has read of every colour and of every shape, and of no pair that is
`held_out`. So the first half of the classes is known to it and the second is new, as words and as pictures.

One shape on a dark or a light ground, a little turned, with sensor noise; its colour varies around the named one. An
image depends on (seed, index, class) only. The order of the draws is part of the recipe.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
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

# Part of every digest: change it when any pixel changes.
VERSION = 1
SIZE = 64
COLOURS = {
    "red": (205, 40, 40),
    "orange": (235, 130, 35),
    "yellow": (230, 220, 60),
    "green": (50, 155, 60),
    "cyan": (65, 200, 210),
    "blue": (45, 70, 200),
    "purple": (125, 55, 165),
    "pink": (240, 140, 185),
}
# word -> outline and where it points, in degrees
SHAPES = {
    "circle": ("disc", 0),
    "ring": ("ring", 0),
    "square": ("square", 0),
    "triangle": ("triangle", 90),
    "cross": ("cross", 0),
    "star": ("star", 90),
    "arrow": ("arrow", 0),
    "drop": ("drop", 90),
}
GROUNDS = {"dark": (5, 90), "light": (165, 250)}
_LEAST_CONTRAST = 60
# what is seen of red, green and blue: by daylight, under sodium lamps, on a negative
LOOKS = {"plain": (1.0, 1.0, 1.0), "sodium": (1.0, 0.7, 0.25), "negative": (-1.0, -1.0, -1.0)}
# smaller, of less sure colours and noisier than what the embedded pair was pretrained on
RADIUS, JITTER, NOISE = (5.0, 16.0), 26.0, (8.0, 32.0)


def held_out(colour: str, shape: str) -> bool:
    """Whether the pair stays out of the captions and pictures of pretraining: two shapes of every colour do."""
    return _diagonal(colour, shape) == 0


def _diagonal(colour: str, shape: str) -> int:
    return (list(COLOURS).index(colour) + list(SHAPES).index(shape)) % 4


_PAIRS = [(colour, shape) for colour in COLOURS for shape in SHAPES]
# as many that were read of, two shapes of every colour as well
SEEN = tuple(f"{colour} {shape}" for colour, shape in _PAIRS if _diagonal(colour, shape) == 2)
HELD_OUT = tuple(f"{colour} {shape}" for colour, shape in _PAIRS if held_out(colour, shape))
CLASSES = {"all": SEEN + HELD_OUT, "seen": SEEN, "held_out": HELD_OUT}


@DATASETS.add("named_shapes")
@dataclass(frozen=True)
class NamedShapes(DatasetSpec):
    """800 / 200 / 1,000 drawn images of 32 classes, `red circle` to `pink arrow`; balanced but for a rest.

    `classes`: all, or the half that the embedded pair has `seen` in pretraining, or the half that was `held_out`.
    `look`: as in pretraining, or as the pair never saw them, so that there is something to learn beside the words.
    """

    classes: str = option("all", choices=tuple(CLASSES))
    look: str = option("plain", choices=tuple(LOOKS), later=True)
    seed: int = option(0, ge=0)

    @property
    def label(self) -> str:
        return looked_label("named_shapes" + ("" if self.classes == "all" else f"_{self.classes}"), self.look)

    @property
    def group(self) -> str:
        return "embedded"

    def revision(self) -> str:
        return looked_recipe(f"named_shapes-v{VERSION}-{self.classes}", self.look, self.seed)

    def open(self) -> Source:
        names = CLASSES[self.classes]
        return NamedShapesSource(names, f"synthetic:v{VERSION}", "original", "synthetic:1000", (), self.seed, self.look)


@dataclass(frozen=True)
class NamedShapesSource(Source):
    """Draws on demand."""

    seed: int
    look: str = "plain"

    def split(self, name: str) -> RawSplit:
        return NamedShapesSplit(self.class_names, self.seed, *BOUNDS[name], self.look)


class NamedShapesSplit(RawSplit):
    """Images `start` to `stop` of the endless sequence of one seed, the classes in turn."""

    def __init__(self, class_names: Sequence[str], seed: int, start: int, stop: int, look: str = "plain") -> None:
        self.class_names, self.seed, self.start, self.look = class_names, seed, start, look
        self.labels = np.arange(start, stop, dtype=np.int64) % len(class_names)

    def content_digest(self) -> str:
        # the recipe stands for the pixels, as in shapes
        recipe = f"named_shapes-v{VERSION}:{','.join(self.class_names)}:{self.seed}:{self.start}:{len(self)}"
        if self.look != "plain":
            recipe += f":{self.look}"
        return hashlib.sha256(recipe.encode()).hexdigest()

    def read(self, index: int) -> Image:
        from PIL import Image

        name = self.class_names[self.labels[index]]
        return Image.fromarray(under(self.look, draw(self.seed, self.start + index, name)))

    def describe(self, index: int) -> str:
        return f"image {self.start + index}"


def looked_label(label: str, look: str) -> str:
    """What tables print of drawn data under one of `LOOKS`."""
    return label if look == "plain" else f"{label}_{look}"


def looked_recipe(recipe: str, look: str, seed: int) -> str:
    """What says which drawn pictures these are, with how they are seen and their seed."""
    return recipe + ("" if look == "plain" else f"-{look}") + f"-seed{seed}"


def under(look: str, picture: np.ndarray) -> np.ndarray:
    """The picture uint8 [64, 64, 3] under one of `LOOKS`; `negative` turns every channel round."""
    shares = np.array(LOOKS[look])
    lit: np.ndarray = np.rint(np.where(shares < 0, 255.0, 0.0) + shares * picture).astype(np.uint8)
    return lit


@dataclass(frozen=True)
class Place:
    """Of one shape: centre (x, y) and radius, in pixels."""

    centre: tuple[float, float]
    radius: float


def draw(seed: int, index: int, name: str) -> np.ndarray:
    """The image at `index` of the sequence, showing the class `name`: uint8 [64, 64, 3]."""
    colour, shape = name.split()
    random = random_of(f"named_shapes {name}", seed, index)
    radius = random.uniform(*RADIUS)
    centre = (random.uniform(radius, SIZE - radius), random.uniform(radius, SIZE - radius))
    ground = list(GROUNDS)[random.randint(len(GROUNDS))]
    return paint(random, colour, shape, ground, [Place(centre, radius)], JITTER, NOISE)


def paint(
    random: np.random.RandomState,
    colour: str,
    shape: str,
    ground: str,
    places: Sequence[Place],
    jitter: float,
    noise: tuple[float, float],
) -> np.ndarray:
    """Equal shapes on a ground `dark` or `light`: uint8 [64, 64, 3].

    `jitter`: deviation of the colour from the named one, of 255. `noise`: least and largest deviation of the sensor's.
    """
    paints = np.array(COLOURS[colour]) + random.normal(0.0, jitter, 3)
    low, high = GROUNDS[ground]

    def far() -> np.ndarray:
        while True:
            drawn: np.ndarray = random.uniform(low, high) + random.uniform(-25.0, 25.0, 3)
            if np.abs(drawn - paints).max() >= _LEAST_CONTRAST:
                return drawn

    canvas = smooth_field(random, SIZE, far)
    outline, towards = SHAPES[shape]
    for place in places:
        angle = math.radians(towards + random.uniform(-25.0, 25.0))
        window, mask = mask_of(outline, place.centre, place.radius, angle, SIZE)
        canvas[window] += mask[..., None] * (paints - canvas[window])
    canvas += random.normal(0.0, random.uniform(*noise), canvas.shape)
    result: np.ndarray = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
    return result
