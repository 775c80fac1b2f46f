"""The processed VTAB-1k folder shared by NOAH, SSF, Convpass, V-PETL Bench and others: JPEG files and list files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from peftbench.data.base import DATASETS, SPLIT_SIZES, SPLITS, Source
from peftbench.data.shipped import NO_FILES_NEEDED
from peftbench.data.sources.image_lists import (
    ImageList,
    listed_files,
    lists_digest,
    none_there,
    refuse_overlap,
    sizes_of_all,
)
from peftbench.data.splits import FileSplit
from peftbench.data.vtab.lists import read_list
from peftbench.data.vtab.spec import VtabSpec
from peftbench.data.vtab.tasks import VtabTask
from peftbench.foundation.entries import entries_in
from peftbench.foundation.errors import BadInput, MissingInput
from peftbench.foundation.location import user_path
from peftbench.foundation.spec import option


@DATASETS.add("vtab_folder")
@dataclass(frozen=True)
class VtabFolder(VtabSpec):
    """One VTAB-1k task from `<root>/<task>/{train800,val200,train800val200,test}.txt` and the images they list."""

    root: str = option("data/vtab-1k", location=True)

    def revision(self) -> str:
        folder = self._folder()
        lists = self._lists(folder)
        return lists_digest(folder, {split: lists[split] for split in SPLITS})

    def check(self) -> None:
        folder = self._folder()
        sizes_of_all(folder, self._lists(folder))

    def inputs(self) -> list[Path]:
        folder = self._folder()
        lists = [path for split in SPLITS if (path := folder / f"{split}.txt").exists()]
        return [*lists, *listed_files(folder, self._lists(folder))]

    def places(self) -> list[Path]:
        return [self._folder()]

    def open(self) -> Source:
        folder = self._folder()
        lists = self._lists(folder)
        for apart in (("train800", "val200", "test"), ("train800val200", "test")):
            refuse_overlap(folder, {f"{split}.txt": lists[split] for split in apart})
        sizes_of_all(folder, lists)
        num_test = len(lists["test"].paths)
        official = num_test in self.facts.num_test
        membership, notes = _membership(self.label, self.facts, lists) if official else ("vtab1k-style:folder", [])
        if not official:
            expected = " or ".join(f"{count:,}" for count in self.facts.num_test)
            shortened = (
                f"{self.label}: {num_test:,} test images, the official test has {expected}; "
                "recorded as a subset, not comparable with published numbers"
            )
            notes = [shortened]
        notes += _label_notes(self.label, lists)
        return VtabSource(
            class_names=_class_names(folder, self.facts.num_classes),
            membership=membership,
            pixels="jpeg75-folder",
            test=f"official:{num_test}" if official else f"subset:{num_test}:folder",
            notes=tuple(notes),
            folder=folder,
            lists=tuple(lists.items()),
        )

    def _folder(self) -> Path:
        root = user_path(self.root, "dataset.root")
        tried = self.facts.folders
        found = {path.resolve(): path for name in tried if (path := root / name).is_dir()}
        if len(found) > 1:
            both = ", ".join(str(path) for path in found.values())
            raise BadInput(f"{self.label}: more than one folder may hold this task: {both}; keep one of them")
        if found:
            return next(iter(found.values()))
        if root.is_dir():
            present = [path.name for path in entries_in(root) if path.is_dir()]
            exists = f"it holds {', '.join(present[:20])}" if present else "it holds no folder"
            if (root / "train800.txt").exists():
                exists += "; it looks like a task folder itself: give the folder above it"
        else:
            exists = "there is no such folder"
        raise MissingInput(
            f"{self.label}: no task folder in {root} (dataset.root): looked for {', '.join(tried)}, {exists}",
            "Set dataset.root=<folder of task folders>, or get the processed archive: "
            f"`hf download XiN0919/VTAB-1k --repo-type dataset --local-dir {root}` "
            "(add --dry-run to list the files and their sizes first).",
            instead=NO_FILES_NEEDED,
        )

    def _lists(self, folder: Path) -> dict[str, ImageList]:
        missing = [split for split in SPLITS if not (folder / f"{split}.txt").is_file()]
        # The union can be made from its parts; nothing else can be made from the rest.
        if missing and missing != ["train800val200"]:
            names = ", ".join(f"{split}.txt" for split in missing)
            raise MissingInput(
                f"{self.label}: {folder} lacks {names}; copy the task folder again (dataset.root={self.root})"
            )
        lists = {
            split: read_list(folder / f"{split}.txt", self.facts.num_classes)
            for split in SPLITS
            if split not in missing
        }
        if missing:
            lists["train800val200"] = lists["train800"] + lists["val200"]
        for split, expected in SPLIT_SIZES.items():
            count = len(lists[split].paths)
            if count != expected:
                raise BadInput(
                    f"{folder / f'{split}.txt'}: {count} images listed, expected {expected}; "
                    "the list was cut short or belongs to another protocol"
                )
        if not lists["test"].paths:
            raise BadInput(f"{folder / 'test.txt'}: no images listed")
        if why := none_there(folder, lists):
            raise MissingInput(f"{self.label}: {folder}: {why}; copy the task folder again (dataset.root={self.root})")
        return lists


@dataclass(frozen=True)
class VtabSource(Source):
    """An opened task folder. `lists`: (split, list) pairs."""

    folder: Path
    lists: tuple[tuple[str, ImageList], ...]

    def split(self, name: str) -> FileSplit:
        images = dict(self.lists)[name]
        return FileSplit([self.folder / path for path in images.paths], images.labels)


def label_fingerprint(labels: np.ndarray) -> str:
    """Order-free fingerprint of a label histogram: "label:count" of the labels present, SHA-256, 16 hex digits."""
    present, counts = np.unique(labels, return_counts=True)
    text = ",".join(f"{label}:{count}" for label, count in zip(present, counts, strict=True))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _membership(label: str, facts: VtabTask, lists: dict[str, ImageList]) -> tuple[str, list[str]]:
    """Official by its counts; confirmed where the label counts of the official sample are known and equal."""
    different = [split for split, known in facts.histograms if label_fingerprint(lists[split].labels) != known]
    if different:
        note = (
            f"{label}: the label counts of {', '.join(different)} are not those of the official sample (not confirmed)"
        )
        return "vtab1k-official:folder", [note]
    return "vtab1k-official:folder-confirmed" if facts.histograms else "vtab1k-official:folder", []


def _label_notes(label: str, lists: dict[str, ImageList]) -> list[str]:
    parts = np.concatenate([lists["train800"].labels, lists["val200"].labels])
    if label_fingerprint(parts) == label_fingerprint(lists["train800val200"].labels):
        return []
    return [f"{label}: train800val200.txt is not the union of train800.txt and val200.txt (label counts differ)"]


def _class_names(folder: Path, num_classes: int) -> tuple[str, ...]:
    """Names from classes.txt when it is there, else the label numbers."""
    path = folder / "classes.txt"
    if not path.is_file():
        return tuple(str(label) for label in range(num_classes))
    try:
        names = tuple(path.read_text(encoding="utf-8-sig").rstrip().split("\n"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read as text ({error})") from error
    if len(names) != num_classes:
        raise BadInput(f"{path}: {len(names)} names, the task has {num_classes} classes")
    return tuple(name.strip() for name in names)
