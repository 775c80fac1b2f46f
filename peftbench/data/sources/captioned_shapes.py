"""Drawn images with captions put together from what was drawn: the world in which the embedded pair was pretrained.

One to six equal shapes on a dark or a light ground. `picture_of` and `caption_of` are also those of pretraining
(scripts/pretrain_pair_micro.py), which says less in a caption and leaves the held-out pairs of colour and shape out.
The order of the draws is part of the recipe.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from peftbench.data.base import DATASETS, DatasetSpec, Source
from peftbench.data.drawn import BOUNDS, random_of
from peftbench.data.raw import RawSplit
from peftbench.data.sources.named_shapes import (
    COLOURS,
    JITTER,
    LOOKS,
    NOISE,
    SHAPES,
    SIZE,
    Place,
    looked_label,
    looked_recipe,
    paint,
    under,
)
from peftbench.data.texted import CAPTIONS, ONE_CLASS, TextedSplit
from peftbench.foundation.spec import option

if TYPE_CHECKING:
    from PIL.Image import Image

# Part of every digest: change it when any pixel or caption changes.
VERSION = 1
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
OPENINGS = ("a photo of", "a picture of", "a drawing of", "an image of", "this is", "there is", "")
CAPTIONS_EACH = 5
# how often a caption tells the ground, and where a single shape lies
_GROUND, _PLACE = 0.8, 0.8
# what is shown: `colour`, `shape`, `ground`, and `count`, or of a single shape `size`, `row` and `column`
Shown = dict[str, str]


def shown_in(
    random: np.random.RandomState, allowed: Callable[[str, str], bool] = lambda colour, shape: True
) -> tuple[Shown, list[Place]]:
    """What a picture of an allowed pair of a colour and a shape shows, and where its shapes lie."""
    while True:
        colour, shape = (list(words)[random.randint(len(words))] for words in (COLOURS, SHAPES))
        if allowed(colour, shape):
            break
    shown = {"colour": colour, "shape": shape, "ground": ("dark", "light")[random.randint(2)]}
    if random.uniform() < 0.15:
        count = random.randint(2, 7)
        places: list[Place] = []
        while len(places) < count:
            radius = random.uniform(5.0, 9.0)
            centre = (random.uniform(radius, SIZE - radius), random.uniform(radius, SIZE - radius))
            if all(math.dist(centre, other.centre) >= radius + other.radius + 1 for other in places):
                places.append(Place(centre, radius))
        shown["count"] = NUMBERS[count]
    else:
        radius = random.uniform(7.0, 24.0)
        centre = (random.uniform(radius, SIZE - radius), random.uniform(radius, SIZE - radius))
        places = [Place(centre, radius)]
        shown |= {"size": "small" if radius < 14 else "large"}
        shown |= {"row": NUMBERS[int(centre[1] / 16)], "column": NUMBERS[int(centre[0] / 16)]}
    return shown, places


def picture_of(
    random: np.random.RandomState,
    jitter: float,
    noise: tuple[float, float],
    allowed: Callable[[str, str], bool] = lambda colour, shape: True,
) -> tuple[np.ndarray, Shown]:
    """A picture uint8 [64, 64, 3] of an allowed pair of a colour and a shape, and what it shows."""
    shown, places = shown_in(random, allowed)
    return paint(random, shown["colour"], shown["shape"], shown["ground"], places, jitter, noise), shown


def caption_of(shown: Shown, random: np.random.RandomState, ground: float = 0.4, place: float = 0.3) -> str:
    """A caption that names some of what is shown, the ground and the place as often as told."""
    opening = OPENINGS[random.randint(len(OPENINGS))]
    named = random.uniform()
    colour = "" if named < 0.12 else shown["colour"]
    shape = "shape" if 0.12 <= named < 0.24 else shown["shape"]
    if "count" in shown:
        thing = f"{shown['count']} {colour} {plural(shape)}"
    else:
        size = shown["size"] if random.uniform() < 0.4 else ""
        article = "" if random.uniform() < 0.15 else "an" if (size or colour or shape)[0] in "aeiou" else "a"
        thing = f"{article} {size} {colour} {shape}"
    clauses = []
    if random.uniform() < ground:
        clauses.append(f"on a {shown['ground']} ground")
    if "row" in shown and random.uniform() < place:
        clauses.append(f"in row {shown['row']} column {shown['column']}")
    ahead = [clause for clause in clauses if random.uniform() < 0.4]
    behind = [clause for clause in clauses if clause not in ahead]
    words = " ".join([*ahead, *([","] if ahead else []), opening, thing, *behind])
    return words + (" ." if random.uniform() < 0.7 else "")


def plural(shape: str) -> str:
    return {"shape": "shapes", "cross": "crosses"}.get(shape, shape + "s")


@DATASETS.add("captioned_shapes")
@dataclass(frozen=True)
class CaptionedShapes(DatasetSpec):
    """800 / 200 / 1,000 drawn images with five captions each, of all pairs of a colour and a shape.

    `look`: as in pretraining, or as the embedded pair never saw them, see `named_shapes`.
    """

    look: str = option("plain", choices=tuple(LOOKS))
    seed: int = option(0, ge=0)

    @property
    def label(self) -> str:
        return looked_label("captioned_shapes", self.look)

    @property
    def group(self) -> str:
        return "embedded"

    def revision(self) -> str:
        return looked_recipe(f"captioned_shapes-v{VERSION}", self.look, self.seed)

    def open(self) -> Source:
        version = f"synthetic:v{VERSION}"
        return CaptionedShapesSource(ONE_CLASS, version, "original", "synthetic:1000", (), self.seed, self.look)


@dataclass(frozen=True)
class CaptionedShapesSource(Source):
    """Draws on demand. Captions know left from right."""

    seed: int
    look: str

    @property
    def targets(self) -> tuple[str, ...]:
        return (CAPTIONS,)

    @property
    def mirrors(self) -> bool:
        return False

    def split(self, name: str) -> RawSplit:
        images = DrawnScenes(self.seed, *BOUNDS[name], self.look)
        return TextedSplit(images, [self._captions(images.start + index) for index in range(len(images))])

    def _captions(self, index: int) -> list[str]:
        shown, random = shown_at(self.seed, index), random_of("captioned_shapes captions", self.seed, index)
        return [caption_of(shown, random, _GROUND, _PLACE) for _ in range(CAPTIONS_EACH)]


def scene(seed: int, index: int) -> tuple[np.ndarray, Shown]:
    """The picture at `index` of the sequence, uint8 [64, 64, 3], and what it shows."""
    return picture_of(random_of("captioned_shapes", seed, index), JITTER, NOISE)


def shown_at(seed: int, index: int) -> Shown:
    """What that picture shows, without painting it."""
    return shown_in(random_of("captioned_shapes", seed, index))[0]


class DrawnScenes(RawSplit):
    """Images `start` to `stop` of the endless sequence of one seed, as one class."""

    def __init__(self, seed: int, start: int, stop: int, look: str) -> None:
        self.seed, self.start, self.look = seed, start, look
        self.labels = np.zeros(stop - start, dtype=np.int64)

    def content_digest(self) -> str:
        # the recipe stands for the pixels, as in shapes
        recipe = looked_recipe(f"captioned_shapes-v{VERSION}:{self.start}:{len(self)}", self.look, self.seed)
        return hashlib.sha256(recipe.encode()).hexdigest()

    def read(self, index: int) -> Image:
        from PIL import Image

        return Image.fromarray(under(self.look, scene(self.seed, self.start + index)[0]))

    def describe(self, index: int) -> str:
        return f"image {self.start + index}"
