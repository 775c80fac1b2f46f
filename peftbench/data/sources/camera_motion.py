"""Clips cut out of photographs by a moving window: real pixels, labels that only motion gives.

The window pans, zooms, turns or rests, with easing and a shaking hand. Opposite motions are one sequence of frames read
in the two directions, so no frame and no mean over frames tells them apart.

A clip depends on the photographs and (seed, index, size, frames) only. The order of the draws is part of the recipe.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from peftbench.data.base import DATASETS, ClipSpec, Source
from peftbench.data.drawn import BOUNDS, random_of
from peftbench.data.pixels.decode import decode_image
from peftbench.data.raw import ClipSplit
from peftbench.data.shipped import of_scikit_learn
from peftbench.foundation.digests import files_digest
from peftbench.foundation.entries import entries_in
from peftbench.foundation.errors import BadInput, MissingInput
from peftbench.foundation.location import user_path
from peftbench.foundation.spec import option

if TYPE_CHECKING:
    from PIL.Image import Image

# Part of every digest: change it when any pixel changes.
VERSION = 1
CLASSES = (
    "pan_right",
    "pan_left",
    "pan_down",
    "pan_up",
    "zoom_in",
    "zoom_out",
    "turn_right",
    "turn_left",
    "rest",
)
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
# of a folder's pictures every fifth is seen in test clips only
_TEST_SHARE = 5


@DATASETS.add("camera_motion")
@dataclass(frozen=True)
class CameraMotion(ClipSpec):
    """800 / 200 / 1,000 clips of `frames` frames of `size` x `size` pixels from photographs, nine camera motions.

    `root`: a folder of pictures of one's own, of which every fifth serves the test clips alone; without it the two
    photographs that ship with scikit-learn, from which all clips are cut.
    """

    root: str | None = option(None, location=True)
    size: int = option(32, ge=16, le=512)
    seed: int = option(0, ge=0)

    @property
    def label(self) -> str:
        own = f"_{self._place().name}" if self.root else ""
        frames = "" if self.frames == 8 else f"_t{self.frames}"
        return f"camera_motion{own}{frames}" + ("" if self.size == 32 else f"_{self.size}")

    def _place(self) -> Path:
        return user_path(self.root or "", "dataset.root").absolute()

    def _pictures(self) -> list[Path]:
        if self.root is None:
            return [of_scikit_learn("images", name) for name in ("china.jpg", "flower.jpg")]
        folder = self._place()
        if not folder.is_dir():
            raise MissingInput(f"dataset.root={self.root}: there is no such folder; set it to a folder of pictures")
        found = [path for path in entries_in(folder) if path.suffix.lower() in SUFFIXES and path.name[0] != "."]
        if len(found) < 2:
            raise BadInput(f"{folder}: {len(found)} pictures; put two or more there, some for test clips alone")
        return found

    def inputs(self) -> list[Path]:
        return [*([self._place()] if self.root else []), *self._pictures()]

    def places(self) -> list[Path]:
        return [self._place()] if self.root else []

    def revision(self) -> str:
        recipe = f"camera_motion-v{VERSION}-size{self.size}-frames{self.frames}-seed{self.seed}"
        return f"{recipe}-{files_digest(self._pictures())[:16]}"

    def open(self) -> Source:
        pictures = self._pictures()
        num_test = max(len(pictures) // _TEST_SHARE, 1)
        training, testing = pictures, pictures
        if self.root is not None:
            training, testing = pictures[:-num_test], pictures[-num_test:]
            if len(pictures) >= _TEST_SHARE:
                testing = pictures[_TEST_SHARE - 1 :: _TEST_SHARE]
                training = [path for path in pictures if path not in testing]
        return CameraMotionSource(
            CLASSES,
            f"synthetic:v{VERSION}",
            "original",
            "synthetic:1000",
            (),
            _Album(tuple(training)),
            _Album(tuple(testing)),
            self.seed,
            self.size,
            self.frames,
        )


@dataclass(frozen=True)
class _Album:
    """Pictures that are decoded once, when the first clip is cut."""

    paths: tuple[Path, ...]

    @cached_property
    def digest(self) -> str:
        return files_digest(self.paths)

    @cached_property
    def _decoded(self) -> dict[int, Image]:
        return {}

    def picture(self, number: int) -> Image:
        if number not in self._decoded:
            path = self.paths[number]
            try:
                data = path.read_bytes()
            except OSError as error:
                raise BadInput(f"{path}: the picture cannot be read ({error.strerror})") from error
            # a large picture is brought down to what a window needs
            image = decode_image(data, str(path)).convert("RGB")
            image.thumbnail((1024, 1024))
            self._decoded[number] = image
        return self._decoded[number]


@dataclass(frozen=True)
class CameraMotionSource(Source):
    """Cuts on demand."""

    training: _Album
    testing: _Album
    seed: int
    size: int
    frames: int

    @property
    def mirrors(self) -> bool:
        return False

    def split(self, name: str) -> ClipSplit:
        album = self.testing if name == "test" else self.training
        return CameraMotionSplit(album, self.seed, self.size, self.frames, *BOUNDS[name])


class CameraMotionSplit(ClipSplit):
    """Clips `start` to `stop` of the endless sequence of one seed."""

    def __init__(self, album: _Album, seed: int, size: int, frames: int, start: int, stop: int) -> None:
        self.album, self.seed, self.size, self.frames, self.start = album, seed, size, frames, start
        self.labels = np.arange(start, stop, dtype=np.int64) % len(CLASSES)

    def content_digest(self) -> str:
        # recipe and pictures stand for the pixels
        recipe = f"camera_motion-v{VERSION}:{self.size}:{self.frames}:{self.seed}:{self.start}:{len(self)}"
        return hashlib.sha256(f"{recipe}:{self.album.digest}".encode()).hexdigest()

    def read_clip(self, index: int, moments: np.ndarray | None = None) -> list[Image]:
        from PIL import Image

        number, label = self.start + index, int(self.labels[index])
        frames = clip(self.album, self.seed, number, label, self.size, self.frames)
        return [Image.fromarray(frame) for frame in frames]


@dataclass(frozen=True)
class Pose:
    """Where the window is: centre (x, y) from the middle of the path and in sides of the window, scale, turn (rad)."""

    x: float
    y: float
    scale: float
    turn: float


def poses(random: np.random.RandomState, label: int, frames: int) -> list[Pose]:
    """The window at each frame of a motion; the opposite motion has the same ones from the last to the first."""
    easing = random.uniform(0.7, 1.4)
    reach, zoom, turn = random.uniform(0.25, 0.6), random.uniform(0.12, 0.3), random.uniform(0.2, 0.5)
    shake = random.normal(0.0, 0.012, (frames, 2))
    way = np.linspace(-1, 1, frames)
    way = np.sign(way) * np.abs(way) ** easing
    kind, backwards = divmod(label, 2)
    name = ("pan_x", "pan_y", "zoom", "turn", "rest")[kind]
    made = [
        Pose(
            0.5 * reach * step * (name == "pan_x") + dx,
            0.5 * reach * step * (name == "pan_y") + dy,
            # in: the window becomes smaller
            float(np.exp(-zoom * step * (name == "zoom"))),
            0.5 * turn * step * (name == "turn"),
        )
        for step, (dx, dy) in zip(way.tolist(), shake.tolist(), strict=True)
    ]
    return made[::-1] if backwards else made


def clip(album: _Album, seed: int, index: int, label: int, size: int = 32, frames: int = 8) -> np.ndarray:
    """The clip at `index` of the sequence of `seed`, moving as `label` says: uint8 [frames, size, size, 3]."""
    random = random_of("camera_motion", seed, index)
    picture = album.picture(random.randint(len(album.paths)))
    share = random.uniform(0.3, 0.5)
    scaled = _scaled(picture, size / share)
    place = random.uniform(size=2)
    base_turn, mirrored = random.uniform(-0.15, 0.15), random.randint(2)
    path = poses(random, label, frames)
    if mirrored:
        scaled = scaled[:, ::-1]
    height, width = scaled.shape[:2]
    # the middle of the path, so far from the edge that most windows are whole; what is beyond repeats the edge
    margin = 0.85 * size
    x, y = (margin + part * max(length - 2 * margin, 0) for part, length in zip(place, (width, height), strict=True))
    drawn = [
        _window(scaled, size, x + pose.x * size, y + pose.y * size, pose.scale, base_turn + pose.turn) for pose in path
    ]
    return np.stack(drawn)


def _scaled(picture: Image, short: float) -> np.ndarray:
    """The picture with a short side of `short` pixels: float64 [height, width, 3]."""
    from PIL.Image import Resampling

    factor = short / min(picture.size)
    width, height = (max(round(length * factor), 1) for length in picture.size)
    return np.asarray(picture.resize((width, height), Resampling.BICUBIC), dtype=np.float64)


def _window(pixels: np.ndarray, size: int, x: float, y: float, scale: float, turn: float) -> np.ndarray:
    """A square window around (x, y), bilinear: uint8 [size, size, 3]. A positive turn of the window is clockwise."""
    axis = (np.arange(size) + 0.5 - size / 2) * scale
    across, down = np.meshgrid(axis, axis)
    cosine, sine = np.cos(turn), np.sin(turn)
    columns = np.clip(x + across * cosine - down * sine - 0.5, 0, pixels.shape[1] - 1)
    rows = np.clip(y + across * sine + down * cosine - 0.5, 0, pixels.shape[0] - 1)
    left = np.minimum(columns.astype(np.int64), max(pixels.shape[1] - 2, 0))
    top = np.minimum(rows.astype(np.int64), max(pixels.shape[0] - 2, 0))
    right, below = np.minimum(left + 1, pixels.shape[1] - 1), np.minimum(top + 1, pixels.shape[0] - 1)
    u, v = (columns - left)[..., None], (rows - top)[..., None]
    mixed = (1 - v) * ((1 - u) * pixels[top, left] + u * pixels[top, right])
    mixed = mixed + v * ((1 - u) * pixels[below, left] + u * pixels[below, right])
    result: np.ndarray = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    return result
