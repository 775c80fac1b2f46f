"""Drawn scenes with class, depth, normal and edges at every pixel, and boxes: dense prediction for everywhere.

A tilted plane with two to six solids on it, seen from above, shaded by one light. Colours say nothing about the class.
A scene depends on (seed, index, size) only. The order of the draws is part of the recipe.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from peftbench.data.base import DATASETS, FULL_SPLITS, SPLITS, DatasetSpec, Source
from peftbench.data.boxes import padded
from peftbench.data.drawn import BOUNDS, random_of
from peftbench.data.raw import RawSplit
from peftbench.foundation.maps import BOXES
from peftbench.foundation.maps import UNKNOWN as IGNORED
from peftbench.foundation.spec import option

if TYPE_CHECKING:
    from PIL.Image import Image

# Part of every digest: change it when any pixel changes.
VERSION = 1
CLASSES = ("ground", "sphere", "slab", "wedge", "ring")
_SAMPLES = 4
_MOST = 6
# a split keeps the scenes it drew while they have fewer pixels than this, of 21 bytes each
_KEPT_PIXELS = 10_000_000
# photos with maps are trained on whole, so that a suite with both needs `train` and the like here as well
_SPLITS = {
    **dict(zip(FULL_SPLITS, (BOUNDS["train800"], BOUNDS["val200"], BOUNDS["train800val200"]), strict=True)),
    **BOUNDS,
}
_CORNERS = tuple(np.pi * turn / 6 for turn in (3, 7, 11))


@DATASETS.add("scenes")
@dataclass(frozen=True)
class Scenes(DatasetSpec):
    """800 / 200 / 1,000 drawn scenes of `size` x `size` pixels: maps of five kinds and boxes."""

    size: int = option(32, ge=16, le=256)
    seed: int = option(0, ge=0)

    @property
    def label(self) -> str:
        return "scenes" if self.size == 32 else f"scenes_{self.size}"

    @property
    def group(self) -> str:
        return "dense"

    def revision(self) -> str:
        return f"scenes-v{VERSION}-size{self.size}-seed{self.seed}"

    def open(self) -> Source:
        return ScenesSource(CLASSES, f"synthetic:v{VERSION}", "original", "synthetic:1000", (), self.size, self.seed)


@dataclass(frozen=True)
class ScenesSource(Source):
    """Draws on demand."""

    size: int
    seed: int

    @property
    def targets(self) -> tuple[str, ...]:
        return ScenesSplit.maps

    @property
    def splits(self) -> tuple[str, ...]:
        return (*FULL_SPLITS, *SPLITS)

    def split(self, name: str) -> RawSplit:
        return ScenesSplit(self.size, self.seed, *_SPLITS[name])


class ScenesSplit(RawSplit):
    """Scenes `start` to `stop` of the endless sequence of one seed."""

    maps = ("class_map", "depth", "normals", "edges", "saliency", BOXES)

    def __init__(self, size: int, seed: int, start: int, stop: int) -> None:
        self.size, self.seed, self.start = size, seed, start
        self.labels = np.zeros(stop - start, dtype=np.int64)  # scenes have no class of their own
        self._drawn: dict[int, Scene] = {}

    def content_digest(self) -> str:
        # the recipe stands for the pixels, as in shapes
        recipe = f"scenes-v{VERSION}:{self.size}:{self.seed}:{self.start}:{len(self)}"
        return hashlib.sha256(recipe.encode()).hexdigest()

    def read(self, index: int) -> Image:
        from PIL import Image

        return Image.fromarray(self._scene(index).image)

    def read_map(self, name: str, index: int) -> np.ndarray:
        values: np.ndarray = getattr(self._scene(index), name)
        return values

    def size_of(self, index: int) -> tuple[int, int]:
        return self.size, self.size

    def _scene(self, index: int) -> Scene:
        """Drawn once for the image and all its maps, as far as memory allows."""
        found = self._drawn.get(index) or scene(self.seed, self.start + index, self.size)
        if index < _KEPT_PIXELS // self.size**2:
            self._drawn[index] = found
        return found

    def describe(self, index: int) -> str:
        return f"scene {self.start + index}"


@dataclass(frozen=True)
class Scene:
    """`image` uint8 [s, s, 3], `class_map` uint8 [s, s], `depth` float32 [s, s] (0 near, 1 far), `normals` float32
    [3, s, s] (unit, z towards the scene), `edges` uint8 [s, s] (1 where another solid is below or to the right),
    `boxes` float32 [6, 6] (around the pixels that a solid owns, not asked for under a tenth of the scene across or
    down)."""

    image: np.ndarray
    class_map: np.ndarray
    depth: np.ndarray
    normals: np.ndarray
    edges: np.ndarray
    boxes: np.ndarray

    @property
    def saliency(self) -> np.ndarray:
        """uint8 [s, s]: 1 on a solid, 0 on the ground, 255 undecided."""
        return np.where(self.class_map == IGNORED, IGNORED, self.class_map > 0).astype(np.uint8)


def scene(seed: int, index: int, size: int = 32) -> Scene:
    """The scene at `index` of the sequence of `seed`."""
    random = random_of("scenes", seed, index)
    axis = (np.arange(size * _SAMPLES) + 0.5) / (size * _SAMPLES)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    tilt = random.uniform(-0.3, 0.3, 2)
    z = 0.7 + tilt[0] * (x - 0.5) + tilt[1] * (y - 0.5)
    slope = np.stack([np.full_like(z, tilt[0]), np.full_like(z, tilt[1])])
    owner = np.zeros(z.shape, np.int64)
    kinds, colours = [0], [random.uniform(0.15, 0.95, 3)]
    for item in range(1, random.randint(2, _MOST) + 1):
        kind = random.randint(1, 5)
        inside, height, gradient, colour = _solid(random, kind, x, y)
        front = inside & (height < z)
        z = np.where(front, height, z)
        slope = np.where(front, gradient, slope)
        owner[front] = item
        kinds.append(kind)
        colours.append(colour)
    normals = np.concatenate([slope, -np.ones((1, *z.shape))])
    normals /= np.sqrt((normals**2).sum(0, keepdims=True))
    fine = np.array(colours)[owner] * _shade(random, normals)[..., None]
    image = _cells(fine.transpose(2, 0, 1), size).mean(-1).transpose(1, 2, 0)
    noisy = 255 * image + random.normal(0, random.uniform(2, 8), image.shape)
    return _sampled(np.clip(np.rint(noisy), 0, 255).astype(np.uint8), np.array(kinds, np.uint8), owner, z, normals)


def _solid(
    random: np.random.RandomState, kind: int, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Where a solid is, how far away it is there, how that changes [2, n, n], and its colour."""
    cx, cy = random.uniform(0.1, 0.9, 2)
    radius, turn, near = random.uniform(0.13, 0.27), random.uniform(0, 2 * np.pi), random.uniform(0.2, 0.5)
    tilt = random.uniform(-0.8, 0.8, 2)
    colour = random.uniform(0.15, 0.95, 3)
    dx, dy = x - cx, y - cy
    if CLASSES[kind] in ("sphere", "ring"):
        distance = np.sqrt(dx * dx + dy * dy) + 1e-9
        middle, bulge = (0.0, radius) if CLASSES[kind] == "sphere" else (0.7 * radius, 0.3 * radius)
        off = distance - middle
        height = np.sqrt(np.maximum(bulge * bulge - off * off, (0.05 * bulge) ** 2))
        gradient = np.stack([off * dx / distance / height, off * dy / distance / height])
        return np.abs(off) < bulge, near - height, gradient, colour
    u, v = np.cos(turn) * dx + np.sin(turn) * dy, -np.sin(turn) * dx + np.cos(turn) * dy
    if CLASSES[kind] == "slab":
        inside = np.maximum(np.abs(u), np.abs(v)) < 0.8 * radius
    else:
        inside = np.max([u * np.cos(corner) + v * np.sin(corner) for corner in _CORNERS], axis=0) < 0.5 * radius
    gradient = np.stack([np.full_like(x, tilt[0]), np.full_like(x, tilt[1])])
    return inside, near + tilt[0] * dx + tilt[1] * dy, gradient, colour


def _shade(random: np.random.RandomState, normals: np.ndarray) -> np.ndarray:
    """Lambert's law with some light from everywhere."""
    angle, lift = random.uniform(0, 2 * np.pi), random.uniform(0.3, 0.9)
    light = np.array([lift * np.cos(angle), lift * np.sin(angle), -1.0])
    light /= np.linalg.norm(light)
    shade: np.ndarray = 0.35 + 0.65 * np.clip(np.tensordot(light, normals, 1), 0, None)
    return shade


def _sampled(image: np.ndarray, kinds: np.ndarray, owner: np.ndarray, z: np.ndarray, normals: np.ndarray) -> Scene:
    """A pixel belongs to the solid that owns most of its samples; its depth and normal are their mean."""
    size = len(image)
    owners = _cells(owner, size)
    counts = np.stack([(owners == item).sum(-1) for item in range(len(kinds))])
    winner = counts.argmax(0)
    mine = owners == winner[..., None]
    class_map = kinds[winner]
    class_map[counts.max(0) < _SAMPLES * _SAMPLES / 2] = IGNORED
    weight = mine / mine.sum(-1, keepdims=True)
    depth = (_cells(z, size) * weight).sum(-1).astype(np.float32)
    facing = (_cells(normals, size) * weight).sum(-1)
    facing = (facing / np.sqrt((facing**2).sum(0, keepdims=True))).astype(np.float32)
    edges = np.zeros((size, size), bool)
    edges[:, :-1] |= winner[:, :-1] != winner[:, 1:]
    edges[:-1] |= winner[:-1] != winner[1:]
    return Scene(image, class_map, depth, facing, edges.astype(np.uint8), _boxes(winner, kinds))


def _boxes(winner: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """The boxes of the solids that own pixels, in the order in which they were drawn."""
    found: list[tuple[float, ...]] = []
    for item in range(1, len(kinds)):
        rows, columns = np.nonzero(winner == item)
        if len(rows):
            left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            little = min(right - left, bottom - top) < len(winner) / 10
            found.append((left, top, right, bottom, kinds[item], little))
    return padded(found, _MOST)


def _cells(fine: np.ndarray, size: int) -> np.ndarray:
    """The samples of each pixel along a last axis: [..., n, n] -> [..., size, size, samples]."""
    parts = fine.reshape(*fine.shape[:-2], size, _SAMPLES, size, _SAMPLES).swapaxes(-3, -2)
    return parts.reshape(*fine.shape[:-2], size, size, _SAMPLES * _SAMPLES)
