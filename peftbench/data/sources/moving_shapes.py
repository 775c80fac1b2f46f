"""Drawn clips whose classes are motions: video for everywhere, made of nothing.

A light shape and a dark one stand on two crossing tracks, a row and a column of a picture whose opposite sides meet;
each track has as many places as the clip has frames. One of them glides along its track, every frame the same number of
places on; the other hops through the places of its own in a random order. The class is where the gliding one goes and
how fast.

Each shape is at each of its places once, and which two places meet in a frame is a uniformly random pairing whatever
the class. So the frames of a clip without their order, and with them a mean over frames of anything, hold nothing of
the class.

A clip depends on (seed, index, size, frames) only. The order of the draws is part of the recipe.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from peftbench.data.base import DATASETS, ClipSpec, Source
from peftbench.data.drawn import BOUNDS, random_of
from peftbench.data.raw import ClipSplit
from peftbench.foundation.spec import option

if TYPE_CHECKING:
    from PIL.Image import Image

# Part of every digest: change it when any pixel changes.
VERSION = 1
# step along the track (in fast or slow places a frame), and whether the track is the row
DIRECTIONS = {"right": (1, True), "left": (-1, True), "down": (1, False), "up": (-1, False)}
CLASSES = tuple(f"{direction}_{speed}" for direction in DIRECTIONS for speed in ("slow", "fast"))
KINDS = ("disc", "square", "diamond", "ring")
_SAMPLES = 4  # a pixel and side


@DATASETS.add("moving_shapes")
@dataclass(frozen=True)
class MovingShapes(ClipSpec):
    """800 / 200 / 1,000 drawn clips of `frames` frames of `size` x `size` pixels; 4 directions x 2 speeds."""

    frames: int = option(8, ge=5, le=64)
    size: int = option(32, ge=16, le=256)
    seed: int = option(0, ge=0)

    def problems(self) -> Sequence[str]:
        if self.frames == 6:
            return ["dataset.frames=6 leaves no second speed that visits every place; take 5, 7, 8 or more"]
        return ()

    @property
    def label(self) -> str:
        frames = "" if self.frames == 8 else f"_t{self.frames}"
        return f"moving_shapes{frames}" + ("" if self.size == 32 else f"_{self.size}")

    def revision(self) -> str:
        return f"moving_shapes-v{VERSION}-size{self.size}-frames{self.frames}-seed{self.seed}"

    def open(self) -> Source:
        return MovingShapesSource(
            CLASSES, f"synthetic:v{VERSION}", "original", "synthetic:1000", (), self.seed, self.size, self.frames
        )


@dataclass(frozen=True)
class MovingShapesSource(Source):
    """Draws on demand."""

    seed: int
    size: int
    frames: int

    @property
    def mirrors(self) -> bool:
        return False

    def split(self, name: str) -> ClipSplit:
        return MovingShapesSplit(self.seed, self.size, self.frames, *BOUNDS[name])


class MovingShapesSplit(ClipSplit):
    """Clips `start` to `stop` of the endless sequence of one seed."""

    def __init__(self, seed: int, size: int, frames: int, start: int, stop: int) -> None:
        self.seed, self.size, self.frames, self.start = seed, size, frames, start
        self.labels = np.arange(start, stop, dtype=np.int64) % len(CLASSES)

    def content_digest(self) -> str:
        # the recipe stands for the pixels, as in shapes
        recipe = f"moving_shapes-v{VERSION}:{self.size}:{self.frames}:{self.seed}:{self.start}:{len(self)}"
        return hashlib.sha256(recipe.encode()).hexdigest()

    def read_clip(self, index: int, moments: np.ndarray | None = None) -> list[Image]:
        from PIL import Image

        frames = clip(self.seed, self.start + index, int(self.labels[index]), self.size, self.frames)
        return [Image.fromarray(frame) for frame in frames]


def clip(seed: int, index: int, label: int, size: int = 32, frames: int = 8) -> np.ndarray:
    """The clip at `index` of the sequence of `seed`, moving as `label` says: uint8 [frames, size, size, 3].

    Everything but the order of the frames is the same for every label.
    """
    random = random_of("moving_shapes", seed, index)
    backdrop = _backdrop(random, size)
    outlines = [_outline(random, size) for _ in range(2)]
    light, dark = random.uniform(205, 255, 3), random.uniform(0, 50, 3)
    row, column = _places(random, size, frames), _places(random, size, frames)
    height, across = (_middle(random, size) for _ in range(2))
    start, hops = random.randint(frames), _hops(random, frames)
    noise = random.normal(0.0, random.uniform(1.0, 5.0), (frames, size, size, 3))
    on_row, on_column = _orders(label, start, hops)
    drawn = np.empty((frames, size, size, 3))
    for moment, (first, second) in enumerate(zip(on_row, on_column, strict=True)):
        canvas = _painted(backdrop, np.roll(outlines[0], (height, row[first]), (0, 1)), light)
        canvas = _painted(canvas, np.roll(outlines[1], (column[second], across), (0, 1)), dark)
        # noise by the place on the row, not by the moment: the frames are the same ones in another order
        drawn[moment] = canvas + noise[first]
    result: np.ndarray = np.clip(np.rint(drawn), 0, 255).astype(np.uint8)
    return result


def _orders(label: int, start: int, hops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The places on the row and on the column at each moment, for one pairing of places that `hops` settles."""
    frames = len(hops)
    direction, fast = divmod(label, 2)
    sign, along_row = tuple(DIRECTIONS.values())[direction]
    step = sign * (fast_step(frames) if fast else 1)
    glide = (start + step * np.arange(frames)) % frames
    # the pairing: place p of the row meets place hops[p] of the column
    if along_row:
        return glide, hops[glide]
    return np.argsort(hops)[glide], glide


def _hops(random: np.random.RandomState, frames: int) -> np.ndarray:
    """A random order of places that does not glide, whatever the other shape's step."""
    while True:
        hops = random.permutation(frames)
        if len(set(((np.roll(hops, -1) - hops) % frames).tolist())) > 1:
            return hops


def fast_step(frames: int) -> int:
    """How many places the fast ones go on in a frame: the fewest, above one, that lead through every place."""
    return next(step for step in range(2, frames) if math.gcd(step, frames) == 1)


def _places(random: np.random.RandomState, size: int, frames: int) -> np.ndarray:
    """Evenly spaced places on a track, in parts of a pixel, with a shift of less than the way between two."""
    between = size * _SAMPLES / frames
    return random.randint(math.ceil(between)) + np.rint(np.arange(frames) * between).astype(np.int64)


def _middle(random: np.random.RandomState, size: int) -> int:
    """Where a track lies across its way, in parts of a pixel: near the middle of the picture."""
    return int(size * _SAMPLES * random.uniform(7 / 16, 9 / 16))


def _outline(random: np.random.RandomState, size: int) -> np.ndarray:
    """Where a shape is that stands in the corner of a picture whose opposite sides meet: bool, finely sampled."""
    kind, radius = KINDS[random.randint(len(KINDS))], random.uniform(0.14, 0.2) * size
    axis = (np.arange(size * _SAMPLES) + 0.5) / _SAMPLES
    off = np.minimum(axis, size - axis) / radius
    x, y = np.meshgrid(off, off)
    inside: np.ndarray
    if kind == "square":
        inside = np.maximum(x, y) <= 0.85
    elif kind == "diamond":
        inside = x + y <= 1.15
    else:
        distance = np.hypot(x, y)
        inside = (distance <= 1) & (distance >= (0.5 if kind == "ring" else 0))
    return inside


def _backdrop(random: np.random.RandomState, size: int) -> np.ndarray:
    """A smooth field between two colours with up to three pale bars that stay where they are: float64 [s, s, 3]."""
    coarse = random.uniform(0.0, 1.0, (4, 4))
    steps = np.linspace(0, 3, size)
    low = np.minimum(steps.astype(int), 2)
    weight = steps - low
    rows = coarse[low] * (1 - weight)[:, None] + coarse[low + 1] * weight[:, None]
    field = rows[:, low] * (1 - weight) + rows[:, low + 1] * weight
    first, second = random.uniform(80, 175, 3), random.uniform(80, 175, 3)
    canvas = np.asarray(first + field[..., None] * (second - first))
    for _ in range(random.randint(4)):
        top, left = random.randint(size, size=2)
        height, width = random.randint(1, max(size // 4, 2), size=2)
        canvas[top : top + height, left : left + width] += random.uniform(-25, 25, 3)
    return np.clip(canvas, 0, 255)


def _painted(canvas: np.ndarray, fine: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """The canvas with what is finely sampled in `fine` in that colour: float64 [s, s, 3]."""
    size = len(canvas)
    cover = fine.reshape(size, _SAMPLES, size, _SAMPLES).mean((1, 3))[..., None]
    return np.asarray(canvas + cover * (colour - canvas))
