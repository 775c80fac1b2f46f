"""What the user's own image files have in common, however they are listed."""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from peftbench.data.base import GROUPS, PIXELS, DatasetSpec, Source
from peftbench.data.parts import PartsSource, class_notes, num_held_out, stratified_order
from peftbench.data.pixels.decode import peculiarity
from peftbench.data.sources.image_lists import ImageList, lists_digest, refuse_overlap, sizes_of_all
from peftbench.data.sources.labels import case_twins, refuse_one_class
from peftbench.data.splits import FileSplit
from peftbench.foundation.errors import BadInput
from peftbench.foundation.spec import option

# names that people give to the parts of a dataset, in lower case -> ours
PART_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# of these nobody knows whether they choose, train or are reported; beside parts they are no classes either
_UNCLEAR_PARTS = ("eval", "evaluation", "holdout", "trainval", "extra", "unlabeled", "unlabelled", "query", "gallery")
_READ_AS_PART = re.compile(rf"({'|'.join(PART_NAMES)})(?:[ _-]?(?:set|data|images?))?")

# images whose headers are looked at before a run; `data verify` decodes all
LOOKED_AT = 200
_PECULIARITIES = {
    "rotated": "are to be turned by their EXIF data, which is ignored (dataset.apply_exif=true turns them)",
    "16-bit": "have 16 bits, which are scaled to 8",
}


# of an undivided folder: validation chooses, test is read once, the rest trains
VAL_SHARE, TEST_SHARE = 0.16, 0.2


@dataclass(frozen=True)
class Listing:
    """Which images there are. `parts`: `train`, `test` and perhaps `val`; or `all` where nothing is said of parts.

    `class_tasks`: of every class its task, where there are several.
    """

    folder: Path
    class_names: tuple[str, ...]
    parts: dict[str, ImageList]
    notes: tuple[str, ...] = ()
    class_tasks: tuple[str, ...] = ()


@dataclass(frozen=True)
class OwnFiles(DatasetSpec):
    """Options of all kinds of own data.

    `title`: what tables print. Where the data is not divided into parts, a stratified draw of `num_train` and `num_val`
    images by `split_seed` trains and validates and the rest tests; the same seed decides VTAB-sized draws.
    `follow_links`: images may be links that lead out of the folder. `apply_exif`: turn each image as its EXIF data say.
    """

    title: str | None = option(None)
    group_name: str = option("other", choices=GROUPS)
    pixels: str = option("unknown", choices=PIXELS)
    split_seed: int = option(0, ge=0)
    num_train: int = option(800, ge=1)
    num_val: int = option(200, ge=1)
    follow_links: bool = option(False, location=True)
    apply_exif: bool = option(False, later=True)

    @abstractmethod
    def listing(self) -> Listing:
        """Find and check the lists. Raises `MissingInput` or `BadInput`."""

    @property
    def group(self) -> str:
        return self.group_name

    def revision(self) -> str:
        listing = self.listing()
        return lists_digest(listing.folder, listing.parts, self.follow_links)

    def check(self) -> None:
        listing = self.listing()
        sizes_of_all(listing.folder, listing.parts)

    def open(self) -> Source:
        listing = self.listing()
        refuse_one_class(self.label, listing.class_names)
        sizes_of_all(listing.folder, listing.parts, self.follow_links)
        refuse_overlap(listing.folder, listing.parts)
        divided = "all" not in listing.parts
        parts = listing.parts if divided else self._divide(listing)
        labels = {name: images.labels for name, images in parts.items()}
        notes = (*listing.notes, *class_notes(self.label, listing.class_names, labels))
        splits = {
            name: FileSplit([listing.folder / path for path in images.paths], images.labels, self.apply_exif)
            for name, images in parts.items()
        }
        notes += self._twin_notes(listing) + self._image_notes(splits)
        how = "" if divided else f"stratified-seed{self.split_seed}"
        return PartsSource.of(
            splits,
            "own",
            how,
            membership=how or "full",
            class_names=listing.class_names,
            pixels=self.pixels,
            notes=notes,
            seed=self.split_seed,
            tasks=listing.class_tasks,
        )

    def _twin_notes(self, listing: Listing) -> tuple[str, ...]:
        pairs = case_twins(listing.class_names)
        if not pairs:
            return ()
        first, second = pairs[0]
        return (f"{self.label}: {len(pairs)} pairs of classes differ only by case, first '{first}' and '{second}'",)

    def _image_notes(self, splits: Mapping[str, FileSplit]) -> tuple[str, ...]:
        """What the headers of some images, evenly spaced, say of all: EXIF rotation and 16 bits."""
        paths = [path for split in splits.values() for path in split.paths]
        chosen = [str(path) for path in paths[:: -(-len(paths) // LOOKED_AT)]]
        with ThreadPoolExecutor(max_workers=4) as pool:
            found = list(pool.map(peculiarity, chosen))
        notes = []
        for kind, what in _PECULIARITIES.items():
            if kind == "rotated" and self.apply_exif:
                continue
            bad = [path for path, peculiar in zip(chosen, found, strict=True) if peculiar == kind]
            if bad:
                notes.append(f"{self.label}: {len(bad)} of {len(chosen)} images looked at {what}, first {bad[0]}")
        return tuple(notes)

    def too_few(self) -> bool:
        """Whether the images are not divided and too few for `num_train`, `num_val` and a test. Raises as `listing`."""
        parts = self.listing().parts
        return "all" in parts and len(parts["all"].paths) <= self.num_train + self.num_val

    def validating(self) -> tuple[int, int, str]:
        """How many images the split `val` holds, of how many classes, and how there are more. Raises as `listing`."""
        listing = self.listing()
        parts, num_classes = listing.parts, len(listing.class_names)
        if "all" in parts:
            return self.num_val, num_classes, "raise dataset.num_val"
        if "val" in parts:
            return len(parts["val"].paths), num_classes, "put more into the val part"
        return (
            num_held_out(len(parts["train"].paths)),
            num_classes,
            "name a val part in place of a tenth of the train part",
        )

    def _divide(self, listing: Listing) -> dict[str, ImageList]:
        images, num_classes = listing.parts["all"], len(listing.class_names)
        total, kept = len(images.paths), self.num_train + self.num_val
        if total <= kept:
            raise BadInput(
                f"{self.label}: {total:,} images cannot be divided into {self.num_train} for training, {self.num_val} "
                f"for validation and some to test on; {_smaller(total, num_classes)}, or name the train and test parts "
                "yourself"
            )
        if self.num_train < num_classes:
            raise BadInput(
                f"{self.label}: dataset.num_train={self.num_train} is less than one image for each of the "
                f"{num_classes} classes"
            )
        order = stratified_order(images.labels, self.split_seed, images.paths)
        bounds = {"train": (0, self.num_train), "val": (self.num_train, kept), "test": (kept, total)}
        return {name: pick(images, order[start:stop]) for name, (start, stop) in bounds.items()}


def division(total: int, num_classes: int) -> tuple[int, int] | None:
    """How many of few images train and how many validate, the rest being to test on; None for too few to train on."""
    num_val, num_test = math.ceil(total * VAL_SHARE), math.ceil(total * TEST_SHARE)
    num_train = total - num_val - num_test
    return None if num_train < num_classes else (num_train, num_val)


def _smaller(total: int, num_classes: int) -> str:
    """The words with which so few images run."""
    sizes = division(total, num_classes)
    if sizes is None:
        return f"that is too few for {num_classes} classes: get more"
    return (
        f"with dataset.num_train={sizes[0]} dataset.num_val={sizes[1]} and protocol=full or protocol=fewshot they can"
    )


def pick(images: ImageList, rows: np.ndarray) -> ImageList:
    """The rows of a list, in that order."""
    return ImageList(tuple(images.paths[row] for row in rows.tolist()), images.labels[rows])


def part_named(name: str) -> str | None:
    """`train`, `val` or `test` for what people call so: `Training`, `test_set`, `val-data`; None for other names."""
    found = _READ_AS_PART.fullmatch(name.strip().lower())
    return PART_NAMES[found[1]] if found else None


def part_in(name: str) -> str | None:
    """The part that a name speaks of, perhaps among other words: `seg_train`, `test1`, `eval`; None for other names."""
    words = re.findall("[a-z]+", name.lower())
    return part_named(name) or next((part_named(word) or word for word in words if _is_part(word)), None)


def of_parts_alone(name: str) -> bool:
    """Whether all words of a name are of parts, as those of `train_val` and `test1` are."""
    words = re.findall("[a-z]+", name.lower())
    return bool(words) and all(map(_is_part, words))


def differ_in_part(names: Iterable[str]) -> bool:
    """Whether names are the same but for the parts that they speak of, as `seg_train` and `seg_test` are."""
    rest = {re.sub("[a-z]+", lambda word: "" if _is_part(word[0]) else word[0], name.lower()) for name in names}
    return len(rest) == 1


def folders_of_parts(root: Path, names: Iterable[str]) -> dict[str, str]:
    """Part -> the one of the folders `names` in `root` that is called so. Raises `BadInput` where two are."""
    found: dict[str, str] = {}
    for name in names:
        part = part_named(name)
        if part in found:
            raise BadInput(f"{root}: {found[part]}/ and {name}/ are both {part} parts; keep one of them")
        if part is not None:
            found[part] = name
    return found


def _is_part(word: str) -> bool:
    return part_named(word) is not None or word in _UNCLEAR_PARTS
