"""What a dataset is: a spec (options), the source it opens, and the splits the source serves."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from peftbench.data.templates import PLAIN
from peftbench.foundation.errors import ConfigError
from peftbench.foundation.registry import Registry
from peftbench.foundation.spec import Spec, option

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "DATASETS",
    "FULL_SPLITS",
    "GROUPS",
    "PIXELS",
    "SPLITS",
    "SPLIT_SIZES",
    "ClipSpec",
    "ClipSplit",
    "DatasetSpec",
    "FullSource",
    "OnDemand",
    "RawSplit",
    "Source",
    "Split",
    "View",
]

# train800 and val200 choose hyperparameters; train800val200 is their union, for the reported run; test is read once.
SPLITS = ("train800", "val200", "train800val200", "test")
SPLIT_SIZES = {"train800": 800, "val200": 200, "train800val200": 1000}
# The same roles with all images there are, where a dataset has more than VTAB's 1,000.
FULL_SPLITS = ("train", "val", "trainval")
GROUPS = ("natural", "specialized", "structured", "fgvc", "fewshot", "embedded", "dense", "video", "other")
PIXELS = ("original", "tfds", "jpeg75-folder", "webp-export", "unknown")


@dataclass(frozen=True)
class View:
    """What of a sample is shown in one pass: stretch `number` of `views` in time, its square cut at `place` (0 to 1)
    of the longer side.
    """

    number: int = 0
    views: int = 1
    place: float = 0.5


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


@dataclass(frozen=True)
class Source(ABC):
    """An opened dataset. The three honest fields say what the numbers made from it may be compared with.

    `membership`: which images were chosen (`vtab1k-official:...`, `vtab1k-style:...`, `few-shot:...`, `full`,
    `embedded`, `synthetic:...`).
    `pixels`: `original`, `tfds`, `jpeg75-folder`, `webp-export` or `unknown`.
    `test`: `official:<n>` or `subset:<n>:<how>`; `<membership>:<n>` for embedded and synthetic data.
    `notes`: one-line warnings for the user.
    """

    class_names: tuple[str, ...]
    membership: str
    pixels: str
    test: str
    notes: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the targets that its splits hold."""
        return ("label",)

    @property
    def templates(self) -> tuple[str, ...]:
        """Prompts around a class name, `{}` standing for it, as those who made the data's protocol wrote them."""
        return PLAIN

    @property
    def class_tasks(self) -> tuple[str, ...]:
        """Of every class the task it belongs to, where the data is of several; none where it is of one."""
        return ()

    @property
    def mirrors(self) -> bool:
        """Whether a mirrored sample keeps its label, so that augmentation may mirror it."""
        return True

    @property
    def splits(self) -> tuple[str, ...]:
        """Names that `split` knows."""
        return SPLITS

    @abstractmethod
    def split(self, name: str) -> RawSplit:
        """The split called `name`, one of `splits`. Raises `BadInput` when there are too few images for it."""

    @property
    def whole_splits(self) -> tuple[str, str, str, str]:
        """Training, validation, their union and test: the splits that together hold every image used by default."""
        return SPLITS

    def membership_of(self, name: str) -> str:
        """Which images were chosen for the training split `name`."""
        return self.membership

    def pool(self) -> RawSplit:
        """The labelled images that a sample for training may be drawn from."""
        return self.split("train800val200")

    def val_pool(self) -> RawSplit | None:
        """The labelled images that a sample for validation is drawn from; None where they are the pool's own."""
        return None


class FullSource(Source):
    """A source of all images there are, which can also draw VTAB's 1,000 from them."""

    @property
    def splits(self) -> tuple[str, ...]:
        return (*FULL_SPLITS, *SPLITS)

    @property
    def whole_splits(self) -> tuple[str, str, str, str]:
        return (*FULL_SPLITS, "test")


@dataclass(frozen=True)
class DatasetSpec(Spec, ABC):
    """Options of one kind of dataset. Cheap to build and to ask; `open` is the expensive step."""

    section: ClassVar[str] = "dataset"
    name: ClassVar[str] = ""  # the kind, set by the registry

    @property
    @abstractmethod
    def label(self) -> str:
        """What tables print, e.g. `digits` or `vtab/caltech101`."""

    @property
    @abstractmethod
    def group(self) -> str:
        """The mean this dataset belongs to, one of `GROUPS`."""

    @property
    def clip_length(self) -> int:
        """Frames of a sample: 1 where samples are images."""
        return 1

    @abstractmethod
    def revision(self) -> str:
        """Version of the content behind these options, or a digest over the bytes of all its images and its labels.

        Nothing is decoded, and files are read where their digest is not known (see `foundation.digests`). Raises
        `MissingInput` when the data is absent and cannot be had.
        """

    def check(self) -> None:
        """Raises `MissingInput` or `BadInput` where the data is seen to be absent or damaged without reading images."""
        self.revision()

    def inputs(self) -> list[Path] | None:
        """Every file and folder whose change could change the revision, those that may yet appear among them.

        None where something else decides as well, such as what is newest on a hub.
        """
        return []

    def places(self) -> list[Path]:
        """Files and folders the images are read from, as far as they are there; none for embedded data."""
        return self.inputs() or []

    @property
    def download_megabytes(self) -> int | None:
        """How much would be fetched if the data were not here; None where nothing is, or nothing can be."""
        return None

    @abstractmethod
    def open(self) -> Source:
        """Find (or download) the data and check it. Raises `MissingInput` or `BadInput`."""


_ROOMS = ("sources", "vtab", "fgvc", "fewshot", "coop")
DATASETS: Registry[DatasetSpec] = Registry("dataset kind", *(f"peftbench.data.{room}" for room in _ROOMS))


@dataclass(frozen=True)
class ClipSpec(DatasetSpec):
    """Base of datasets of clips: samples of `frames` frames."""

    frames: int = option(8, ge=2, le=64)

    @property
    def group(self) -> str:
        return "video"

    @property
    def clip_length(self) -> int:
        return self.frames


class OnDemand(Protocol):
    """Reads like an array, making the rows that are asked for: see `data.pixels.stream`."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    nbytes: int

    def read(self, rows: np.ndarray, drawn: Mapping[str, np.ndarray] | None = None) -> np.ndarray: ...


@dataclass(frozen=True)
class Split:
    """A split ready for training: inputs and targets by name, the samples along the first axis of each.

    `inputs["image"]`: uint8 [num, size, size, channels], of clips [num, frames, size, size, channels], read-only,
    memory-mapped; one channel when all are grey. For a large split it is made when read. Others may hold texts as token
    ids, and so on.
    `targets["label"]`: int64 [num], read-only. Others may be maps [num, (channels,) height, width] or boxes
    [num, most, 6], see `data.maps`, or those of texts, see `data.texted`.
    `digest`: SHA-256 (hex) over content, labels and texts.
    `texts`: of each sample, where it has any; a cell adds them to the inputs in the tokens of its backbone.
    """

    inputs: Mapping[str, np.ndarray | OnDemand]
    targets: Mapping[str, np.ndarray]
    digest: str
    texts: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def of_images(cls, images: np.ndarray | OnDemand, labels: np.ndarray, digest: str) -> Split:
        """Images with one class each."""
        return cls({"image": images}, {"label": labels}, digest)

    def __len__(self) -> int:
        return int(next(iter(self.inputs.values())).shape[0])

    @property
    def images(self) -> np.ndarray | OnDemand:
        return self.inputs["image"]

    @property
    def labels(self) -> np.ndarray:
        return self.targets["label"]
