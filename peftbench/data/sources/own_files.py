"""What the user's own image files have in common, however they are listed."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from peftbench.data.base import GROUPS, PIXELS, DatasetSpec, Source
from peftbench.data.parts import PartsSource, class_notes, stratified_order
from peftbench.data.sources.image_lists import ImageList, lists_digest, refuse_overlap, sizes_of_all
from peftbench.data.splits import FileSplit
from peftbench.foundation.errors import BadInput
from peftbench.foundation.spec import option

# names that people give to the parts of a dataset, in lower case -> ours
PART_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True)
class Listing:
    """Which images there are. `parts`: `train`, `test` and perhaps `val`; or `all` where nothing is said of parts."""

    folder: Path
    class_names: tuple[str, ...]
    parts: dict[str, ImageList]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class OwnFiles(DatasetSpec):
    """Options of all kinds of own data.

    `title`: what tables print. Where the data is not divided into parts, a stratified draw of `num_train` and `num_val`
    images by `split_seed` trains and validates and the rest tests; the same seed decides VTAB-sized draws.
    """

    title: str | None = option(None)
    group_name: str = option("other", choices=GROUPS)
    pixels: str = option("unknown", choices=PIXELS)
    split_seed: int = option(0, ge=0)
    num_train: int = option(800, ge=1)
    num_val: int = option(200, ge=1)

    @abstractmethod
    def listing(self) -> Listing:
        """Find and check the lists. Raises `MissingInput` or `BadInput`."""

    @property
    def group(self) -> str:
        return self.group_name

    def revision(self) -> str:
        listing = self.listing()
        return lists_digest(listing.folder, listing.parts)

    def check(self) -> None:
        listing = self.listing()
        sizes_of_all(listing.folder, listing.parts)

    def open(self) -> Source:
        listing = self.listing()
        sizes_of_all(listing.folder, listing.parts)
        refuse_overlap(listing.folder, listing.parts)
        divided = "all" not in listing.parts
        parts = listing.parts if divided else self._divide(listing)
        labels = {name: images.labels for name, images in parts.items()}
        notes = (*listing.notes, *class_notes(self.label, listing.class_names, labels))
        splits = {
            name: FileSplit([listing.folder / path for path in images.paths], images.labels)
            for name, images in parts.items()
        }
        how = f"stratified-seed{self.split_seed}"
        num_test = len(splits["test"])
        return PartsSource(
            class_names=listing.class_names,
            membership="full" if divided else how,
            pixels=self.pixels,
            test=f"own:{num_test}" if divided else f"own:{num_test}:{how}",
            notes=notes,
            given_train=splits["train"],
            given_val=splits.get("val"),
            test_part=splits["test"],
            seed=self.split_seed,
        )

    def _divide(self, listing: Listing) -> dict[str, ImageList]:
        images, num_classes = listing.parts["all"], len(listing.class_names)
        total, kept = len(images.paths), self.num_train + self.num_val
        if total <= kept:
            raise BadInput(
                f"{self.label}: {total:,} images cannot be divided into {self.num_train} for training, {self.num_val} "
                "for validation and some to test on; set dataset.num_train and dataset.num_val (with protocol=full or "
                "protocol=fewshot), or name the train and test parts yourself"
            )
        if self.num_train < num_classes:
            raise BadInput(
                f"{self.label}: dataset.num_train={self.num_train} is less than one image for each of the "
                f"{num_classes} classes"
            )
        order = stratified_order(images.labels, self.split_seed, images.paths)
        bounds = {"train": (0, self.num_train), "val": (self.num_train, kept), "test": (kept, total)}
        return {name: pick(images, order[start:stop]) for name, (start, stop) in bounds.items()}


def pick(images: ImageList, rows: np.ndarray) -> ImageList:
    """The rows of a list, in that order."""
    return ImageList(tuple(images.paths[row] for row in rows.tolist()), images.labels[rows])
