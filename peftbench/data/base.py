"""What a dataset is: a spec (options), the source it opens, and the names of the splits the source serves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from peftbench.data.raw import RawSplit
from peftbench.data.templates import PLAIN
from peftbench.foundation.registry import Registry
from peftbench.foundation.spec import Spec, option

# train800 and val200 choose hyperparameters; train800val200 is their union, for the reported run; test is read once.
SPLITS = ("train800", "val200", "train800val200", "test")
SPLIT_SIZES = {"train800": 800, "val200": 200, "train800val200": 1000}
# The same roles with all images there are, where a dataset has more than VTAB's 1,000.
FULL_SPLITS = ("train", "val", "trainval")
GROUPS = ("natural", "specialized", "structured", "fgvc", "fewshot", "embedded", "dense", "video", "other")
PIXELS = ("original", "tfds", "jpeg75-folder", "webp-export", "unknown")


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

    def names_apart(self) -> tuple[str, ...]:
        """Names of classes that the revision says nothing of; none where another name is another revision."""
        return ()

    def places(self) -> list[Path]:
        """Files and folders the images are read from, as far as they are there; none for embedded data."""
        return self.inputs() or []

    def kept_clear(self) -> list[Path]:
        """What nothing may be written over or, where it is a folder, into: all that lies there is read as data."""
        return self.places()

    @property
    def download_megabytes(self) -> int | None:
        """How much would be fetched if the data were not here; None where nothing is, or nothing can be."""
        return None

    @abstractmethod
    def open(self) -> Source:
        """Find (or download) the data and check it. Raises `MissingInput` or `BadInput`."""


_ROOMS = ("sources", "vtab", "fgvc", "fewshot", "coop")
DATASETS: Registry[DatasetSpec] = Registry(
    "dataset kind", *(f"peftbench.data.{room}" for room in _ROOMS), base=DatasetSpec
)


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
