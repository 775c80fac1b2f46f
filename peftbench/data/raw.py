"""What a source serves: the samples of one split in a fixed order, read one by one and not yet resized."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from peftbench.foundation.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image


class RawSplit(ABC):
    """Images and targets of one split in a fixed order, not yet resized. `labels`: int64 [num_images].

    Where `maps` names targets, each image has a map of each in place of a label. `frames` is how many frames a sample
    has, 1 where samples are single images; `draws_frames` whether it can be others of its file. `grouped`: samples of
    one recording are near copies and it is known which those are; the validation part has recordings of its own.
    """

    labels: np.ndarray
    maps: tuple[str, ...] = ()
    frames: int = 1
    draws_frames: bool = False
    grouped: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def content_digest(self) -> str:
        """SHA-256 (hex) over the ordered content of the images and their maps; labels and file names play no part."""

    @abstractmethod
    def read(self, index: int) -> Image:
        """One image in mode RGB or L. Safe to call from several threads.

        Raises `BadInput` naming the image when it cannot be decoded or has more than 8 bits a channel.
        """

    def read_clip(self, index: int, moments: np.ndarray | None = None) -> list[Image]:
        """The `frames` frames of one sample in their order, all of one size; one that is taken twice is one object.

        With `draws_frames`, `moments` [frames] in [0, 1) choose them; None is the choice for evaluation.
        """
        return [self.read(index)]

    def unshown(self, index: int) -> Iterable[Image]:
        """The frames in the files of one sample that `read_clip` leaves out undecoded. Raises `BadInput` as it does."""
        return ()

    def read_map(self, name: str, index: int) -> np.ndarray:
        """The map `name` of one image, as large as it, or its boxes, as `data.maps` says of it.

        Raises `BadInput` naming the map when it is missing, cannot be read or is not as large as its image.
        """
        raise NotImplementedError

    def size_of(self, index: int) -> tuple[int, int]:
        """(width, height) of one image."""
        return self.read(index).size

    def stretch(self, number: int, views: int) -> RawSplit:
        """The same samples in stretch `number` of `views` in time. Raises `ConfigError` where there is but one."""
        if views == 1:
            return self
        raise ConfigError([f"protocol.views={views}: only clips from files (dataset=clips) have several stretches"])

    def take(self, rows: np.ndarray) -> RawSplit:
        """The images at `rows` (int64 [num_rows]), in that order."""
        return TakenSplit(self, rows)

    def describe(self, index: int) -> str:
        """What to call one image in a message to the user."""
        return f"image {index}"


class ClipSplit(RawSplit):
    """Clips: samples of `frames` frames. As an image, a clip is the frame in its middle."""

    @abstractmethod
    def read_clip(self, index: int, moments: np.ndarray | None = None) -> list[Image]: ...

    def read(self, index: int) -> Image:
        return self.read_clip(index)[self.frames // 2]


class TakenSplit(RawSplit):
    """Chosen rows of a split that cannot name them itself; its digest needs that of the whole."""

    def __init__(self, whole: RawSplit, rows: np.ndarray) -> None:
        self._whole, self._rows = whole, rows
        self.labels = whole.labels[rows]
        self.maps = whole.maps
        self.frames, self.draws_frames = whole.frames, whole.draws_frames

    def content_digest(self) -> str:
        return hashlib.sha256(self._whole.content_digest().encode() + self._rows.tobytes()).hexdigest()

    def read(self, index: int) -> Image:
        return self._whole.read(int(self._rows[index]))

    def read_clip(self, index: int, moments: np.ndarray | None = None) -> list[Image]:
        return self._whole.read_clip(int(self._rows[index]), moments)

    def unshown(self, index: int) -> Iterable[Image]:
        return self._whole.unshown(int(self._rows[index]))

    def read_map(self, name: str, index: int) -> np.ndarray:
        return self._whole.read_map(name, int(self._rows[index]))

    def size_of(self, index: int) -> tuple[int, int]:
        return self._whole.size_of(int(self._rows[index]))

    def describe(self, index: int) -> str:
        return self._whole.describe(int(self._rows[index]))
