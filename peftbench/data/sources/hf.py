"""Image classification sets in Hugging Face form: parquet files, an image folder, or a dataset of the hub."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from peftbench.data.base import DATASETS, FULL_SPLITS, GROUPS, PIXELS, DatasetSpec, FullSource, Source
from peftbench.data.maps import numbers_from_one, plain_numbers
from peftbench.data.parts import class_notes, full_split
from peftbench.data.raw import RawSplit
from peftbench.data.sources.hf_columns import find_column, images_of
from peftbench.data.sources.hf_files import OwnedFiles, card_header, data_files
from peftbench.data.sources.hf_images import EncodedImages, HfMaskSplit, HfSplit
from peftbench.data.sources.hf_load import load_from_hub, load_local
from peftbench.data.sources.hub import hub_commit
from peftbench.data.sources.labels import refuse_one_class, refuse_several
from peftbench.data.splits import joined
from peftbench.data.tfds_order import train_and_val
from peftbench.foundation.digests import files_digest
from peftbench.foundation.entries import all_below
from peftbench.foundation.errors import BadInput, MissingInput
from peftbench.foundation.location import user_path
from peftbench.foundation.spec import option

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")
VALIDATION_NAMES = ("validation", "val", "valid", "dev")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@DATASETS.add("hf")
@dataclass(frozen=True)
class HfDataset(DatasetSpec):
    """800 / 200 images of the train split in TFDS's hash order over the row number, or all, and the whole test split.

    `path`: a folder with train.parquet and test.parquet, one written by `save_to_disk`, an image folder with train/ and
    test/, or a hub id. A validation split is used where there is one, else a tenth of the train split validates.
    `commit`: the hub revision, by default the newest. `title`: what tables print. `classes`: number of classes, for
    integer labels without names. `pixels`: what is known about the pixels' history.

    With `mask_column` the images have a class at every pixel, one of `classes`, and no label; 255 is unknown, and so is
    0 with `zero_is_unknown`, where the classes begin at 1.
    """

    path: str | None = option(None, location=True)
    commit: str | None = option(None, location=True)
    image_column: str | None = option(None)
    label_column: str | None = option(None)
    title: str | None = option(None)
    group_name: str = option("other", choices=GROUPS)
    classes: int | None = option(None, ge=2, le=100_000)
    pixels: str = option("unknown", choices=PIXELS)
    mask_column: str | None = option(None, later=True)
    zero_is_unknown: bool = option(False, later=True)

    @property
    def label(self) -> str:
        if self.title or not self.path:
            return self.title or "hf"
        return self._place().stem if self._is_local() else self.path

    @property
    def group(self) -> str:
        return self.group_name

    def revision(self) -> str:
        if not self._is_local():
            return f"commit:{hub_commit(self._hub_id(), self.commit)}"
        base = self._place()
        files = self._files()
        digest = hashlib.sha256(files_digest(files).encode())
        for file in files:
            # Names matter where folders name the classes and the splits.
            digest.update(
                f"\n{file.relative_to(base) if file != base else file.name}".encode("utf-8", "surrogateescape")
            )
        digest.update(card_header(base))
        return digest.hexdigest()

    def check(self) -> None:
        if self._is_local():
            self._files()
        else:
            self.revision()

    def inputs(self) -> list[Path] | None:
        if not self._is_local():
            pinned = self.path is not None and self.commit is not None and len(self.commit) == 40
            return [self._place()] if pinned else None
        place = self._place()
        return [place, *all_below(place)]

    def places(self) -> list[Path]:
        return [self._place()] if self._is_local() else []

    def _files(self) -> list[Path]:
        files = data_files(self._place())
        if not files:
            raise MissingInput(f"{self.label}: {self._place()} (dataset.path) holds no files")
        return files

    def open(self) -> Source:
        splits = self._load()
        absent = [name for name in ("train", "test") if name not in splits]
        if absent:
            raise BadInput(
                f"{self.path}: no {' and no '.join(absent)} split (found: {', '.join(splits)}); "
                "dataset.path must name a folder or hub dataset with both a train and a test split, "
                "for example train.parquet and test.parquet"
            )
        image_column = self._column(splits["train"], "image_column", self.image_column, IMAGE_COLUMNS)
        if self.mask_column is not None:
            return self._masked(splits, image_column)
        label_column = self._column(splits["train"], "label_column", self.label_column, LABEL_COLUMNS)
        val = next((name for name in VALIDATION_NAMES if name in splits), None)
        stored = {"train": "train", "test": "test"} | ({"val": val} if val else {})
        labels = {part: self._labels(splits[name], name, label_column) for part, name in stored.items()}
        words: list[str] = []
        if any(values.dtype.kind == "O" for values in labels.values()):
            words, labels = self._numbered(labels)
        parts = {
            part: HfSplit(self._images(splits[name], name, image_column), np.arange(len(labels[part])), labels[part])
            for part, name in stored.items()
        }
        class_names = tuple(words) or self._class_names(splits["train"], label_column, labels)
        refuse_one_class(self.label, class_names)
        return HfSource(
            class_names=class_names,
            # Not plain tfds-order: copies shuffle, so row numbers need not be the source's own.
            membership="vtab1k-style:tfds-order-of-rows",
            pixels=self.pixels,
            test=f"official:{len(labels['test'])}",
            notes=tuple(class_notes(self.label, class_names, labels)),
            place=str(self.path),
            parts=parts,
        )

    def _masked(self, splits: DatasetDict, image_column: str) -> Source:
        """The source with a mask beside each image in place of a label."""
        mask_column = self._column(splits["train"], "mask_column", self.mask_column, ())
        if self.classes is None:
            raise BadInput(f"{self.path}: masks hold numbers; set dataset.classes to how many classes there are")
        numbers = numbers_from_one(self.classes) if self.zero_is_unknown else plain_numbers()
        val = next((name for name in VALIDATION_NAMES if name in splits), None)
        stored = {"train": "train", "test": "test"} | ({"val": val} if val else {})
        parts = {
            part: HfMaskSplit(
                self._images(splits[name], name, image_column),
                np.arange(len(splits[name])),
                self._images(splits[name], name, mask_column, "mask_column"),
                numbers,
            )
            for part, name in stored.items()
        }
        return HfMaskSource(
            class_names=tuple(map(str, range(self.classes))),
            membership="vtab1k-style:tfds-order-of-rows",
            pixels=self.pixels,
            test=f"official:{len(parts['test'])}",
            notes=(),
            place=str(self.path),
            parts=dict(parts),
        )

    def _place(self) -> Path:
        return user_path(self.path or "", "dataset.path")

    def _is_local(self) -> bool:
        return self.path is not None and self._place().exists()

    def _hub_id(self) -> str:
        if self.path is None:
            raise MissingInput(
                "set dataset.path=<folder with train.parquet and test.parquet> (or a hub id, owner/name)"
            )
        if not _HUB_ID.fullmatch(self.path):
            raise MissingInput(
                f"dataset.path: there is no file or folder {self._place()}, and it is not a hub id (owner/name); "
                "set dataset.path=<folder with train.parquet and test.parquet>"
            )
        return self.path

    def _load(self) -> DatasetDict:
        owned = self._owned()
        if owned is not None:
            return load_local(self._place(), owned, self.revision)
        hub_id = self._hub_id()
        return load_from_hub(hub_id, hub_commit(hub_id, self.commit))

    def _owned(self) -> OwnedFiles | None:
        """The files that may be read; None for a dataset of the hub, whose tables hold their images."""
        return OwnedFiles(self._place().resolve(), self._files()) if self._is_local() else None

    def _column(self, split: Dataset, field: str, given: str | None, usual: tuple[str, ...]) -> str:
        return find_column(split, str(self.path), self.option_name(field), given, usual)

    def _images(self, split: Dataset, name: str, column: str, field: str = "image_column") -> EncodedImages:
        return images_of(split, column, str(self.path), name, self.option_name(field), self._owned())

    def _labels(self, split: Dataset, name: str, column: str) -> np.ndarray:
        """All labels of a split, int64 [num_rows] or words (object [num_rows]), without touching the images."""
        if column not in split.column_names:
            raise BadInput(f"{self.path}: the {name} split has no column {column}")
        values = split.data.column(column)
        if str(values.type).startswith(("list", "large_list", "fixed_size_list")):
            raise BadInput(f"{self.path}: column {column} holds lists; a classifier takes one label an image")
        if str(values.type) in ("string", "large_string") and values.null_count == 0:
            return np.array(values.to_pylist(), dtype=object)
        labels = values.to_numpy() if values.null_count == 0 else np.array([None])
        if labels.dtype.kind not in "iu":
            raise BadInput(
                f"{self.path}: column {column} of the {name} split must hold integers or words, without gaps, and is "
                f"{values.type} with {values.null_count} gaps"
            )
        labels = labels.astype(np.int64)
        if (labels < 0).any():
            row = int(np.argmax(labels < 0))
            raise BadInput(
                f"{self.path}: the {name} split has label {labels[row]} in row {row}; are its labels withheld?"
            )
        return labels

    def _numbered(self, labels: dict[str, np.ndarray]) -> tuple[list[str], dict[str, np.ndarray]]:
        """The classes in order of their words, and each word's place among them."""
        found = [(str(word), f"{part} row {row}") for part in labels for row, word in enumerate(labels[part].tolist())]
        refuse_several(self.label, [word for word, _ in found], [where for _, where in found])
        names = sorted({word for word, _ in found})
        return names, {
            part: np.searchsorted(names, values.astype(str)).astype(np.int64) for part, values in labels.items()
        }

    def _class_names(self, train: Dataset, column: str, labels: dict[str, np.ndarray]) -> tuple[str, ...]:
        names = getattr(train.features[column], "names", None)
        highest = max(int(values.max(initial=0)) for values in labels.values())
        num_images = sum(map(len, labels.values()))
        if not names and self.classes is None and highest >= max(num_images, 100):
            raise BadInput(
                f"{self.path}: labels go up to {highest} and there are {num_images} images; number the classes from 0, "
                "or set dataset.classes"
            )
        known = tuple(names) if names else tuple(str(label) for label in range(self.classes or highest + 1))
        if highest >= len(known) or (self.classes is not None and self.classes != len(known)):
            raise BadInput(
                f"{self.path}: labels go up to {highest} and {len(known)} classes are named; "
                f"dataset.classes is {self.classes}"
            )
        return known


@dataclass(frozen=True)
class HfSource(FullSource):
    """`parts`: the stored splits, `train`, `test` and perhaps `val`. `place`: what messages call the dataset."""

    place: str
    parts: dict[str, HfSplit]

    def split(self, name: str) -> RawSplit:
        train, val = self.parts["train"], self.parts.get("val")
        if name == "test":
            return self.parts["test"]
        if name in FULL_SPLITS:
            if val is None:
                return full_split(train, name)
            return {"train": train, "val": val}.get(name) or joined(train, val)
        try:
            train800, val200 = train_and_val(len(train))
        except BadInput as error:
            raise BadInput(
                f"{self.place}: {error}; use all of them with protocol=full, "
                "or a few of each class with protocol=fewshot"
            ) from error
        both = np.concatenate([train800, val200])
        return train.take({"train800": train800, "val200": val200}.get(name, both))

    def membership_of(self, name: str) -> str:
        return "full" if name in FULL_SPLITS else self.membership

    def pool(self) -> RawSplit:
        return self.parts["train"]


@dataclass(frozen=True)
class HfMaskSource(HfSource):
    """The same of images with class maps."""

    @property
    def targets(self) -> tuple[str, ...]:
        return HfMaskSplit.maps
