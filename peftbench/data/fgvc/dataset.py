"""The five fine-grained datasets (FGVC) of the field, by the JSON split lists of VPT."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from peftbench.data.base import DATASETS, DatasetSpec, Source
from peftbench.data.fgvc.tasks import FGVC_TASKS, FgvcTask, canonical_fgvc
from peftbench.data.parts import PartsSource, class_notes
from peftbench.data.shipped import NO_FILES_NEEDED
from peftbench.data.sources.image_lists import (
    ImageList,
    listed_files,
    lists_digest,
    path_problem,
    read_json,
    refuse_overlap,
    shortened,
    sizes_of_all,
)
from peftbench.data.splits import FileSplit
from peftbench.foundation.entries import matching
from peftbench.foundation.errors import BadInput, MissingInput
from peftbench.foundation.location import user_path
from peftbench.foundation.spec import option

_PARTS = ("train", "val", "test")
_LISTS_FROM = "json.zip of the hub dataset XiN0919/FGVC"


@DATASETS.add("fgvc")
@dataclass(frozen=True)
class Fgvc(DatasetSpec):
    """One dataset from `<root>/<folder>/{train,val,test}.json` and the images they list.

    Each list is one JSON object, image path -> class id. Ids may have gaps: classes are numbered in the order of the
    ids of all three lists. Without val.json, train.json must hold the whole official training set.
    """

    task: str = option("cub200", choices=lambda: list(FGVC_TASKS))
    root: str = option("data/fgvc", location=True)
    split_seed: int = option(0, ge=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "task", canonical_fgvc(self.task))
        super().__post_init__()

    @property
    def label(self) -> str:
        return f"fgvc/{self.task}"

    @property
    def group(self) -> str:
        return "fgvc"

    @property
    def _facts(self) -> FgvcTask:
        return FGVC_TASKS[self.task]

    def revision(self) -> str:
        folder = self._folder()
        lists, _ = self._lists(folder)
        return lists_digest(self._image_root(folder, lists), lists)

    def check(self) -> None:
        folder = self._folder()
        lists, _ = self._lists(folder)
        sizes_of_all(self._image_root(folder, lists), lists)

    def inputs(self) -> list[Path]:
        folder = self._folder()
        files = [path for part in _PARTS if (path := folder / f"{part}.json").is_file()]
        lists, _ = self._lists(folder)
        return [folder, *files, *listed_files(self._image_root(folder, lists), lists)]

    def places(self) -> list[Path]:
        return [self._folder()]

    def open(self) -> Source:
        folder = self._folder()
        lists, ids = self._lists(folder)
        images = self._image_root(folder, lists)
        sizes_of_all(images, lists)
        refuse_overlap(folder, {f"{part}.json": listed for part, listed in lists.items()})
        splits = {
            part: FileSplit([images / path for path in listed.paths], listed.labels) for part, listed in lists.items()
        }
        names = _class_names(ids, lists)
        return PartsSource.of(
            splits,
            "official",
            membership="fgvc-vpt-lists",
            class_names=names,
            pixels="original",
            notes=(
                *self._count_notes(lists),
                *class_notes(self.label, names, {part: listed.labels for part, listed in lists.items()}),
            ),
            seed=self.split_seed,
        )

    def _folder(self) -> Path:
        root = user_path(self.root, "dataset.root")
        found = [path for name in self._facts.folders if (path := root / name).is_dir()]
        if not found:
            exists = (
                f"there is no folder {', '.join(self._facts.folders)} in it" if root.is_dir() else "it is not there"
            )
            what = f"{self.label}: not in {root} (dataset.root): {exists}. {self._images(root)}"
            raise MissingInput(what, *self._advice(root), instead=NO_FILES_NEEDED)
        # a case-insensitive disk finds one folder under several names
        if len({path.resolve() for path in found}) > 1 and not found[0].samefile(found[1]):
            raise BadInput(f"{self.label}: {found[0]} and {found[1]} may both hold this dataset; keep one of them")
        return found[0]

    def _images(self, root: Path) -> str:
        facts = self._facts
        return f"Get the images ({facts.megabytes:,} MB): {facts.images_from} into {root / facts.folders[0]}"

    @staticmethod
    def _advice(root: Path) -> tuple[str, ...]:
        return (
            "The lists train.json, val.json, test.json go into the folder of the images: "
            f"`hf download XiN0919/FGVC json.zip --repo-type dataset --local-dir {root}`. "
            "Another place is set by dataset.root=<folder>.",
        )

    def _lists(self, folder: Path) -> tuple[dict[str, ImageList], list[str]]:
        """Part -> list, and the class ids in order. Raises `MissingInput` or `BadInput`."""
        files = {part: folder / f"{part}.json" for part in _PARTS}
        missing = [file.name for part, file in files.items() if part != "val" and not file.is_file()]
        if missing:
            raise MissingInput(
                f"{self.label}: {folder} lacks {' and '.join(missing)} ({_LISTS_FROM}). {self._images(folder.parent)}",
                *self._advice(folder.parent),
                instead=NO_FILES_NEEDED,
            )
        read = {part: read_json_list(file) for part, file in files.items() if file.is_file()}
        ids = sorted_ids({label for listed in read.values() for label in listed.values()})
        numbers = {label: number for number, label in enumerate(ids)}
        lists = {
            part: ImageList(tuple(listed), np.array([numbers[label] for label in listed.values()], dtype=np.int64))
            for part, listed in read.items()
        }
        self._check_counts(folder, lists, len(ids))
        return lists, ids

    def _check_counts(self, folder: Path, lists: dict[str, ImageList], num_classes: int) -> None:
        facts = self._facts
        num_training = sum(len(listed.paths) for part, listed in lists.items() if part != "test")
        problems = [
            f"{found:,} {what}, expected {expected:,}"
            for what, found, expected in (
                ("training images (train + val)", num_training, facts.num_train + facts.num_val),
                ("test images", len(lists["test"].paths), facts.num_test),
                ("classes", num_classes, facts.num_classes),
            )
            if found != expected
        ]
        if problems:
            raise BadInput(
                f"{self.label}: the lists in {folder} hold {'; '.join(problems)}; they were cut short or belong to "
                f"another split, get {_LISTS_FROM} again"
            )

    def _count_notes(self, lists: dict[str, ImageList]) -> list[str]:
        found = len(lists["train"].paths)
        if found == self._facts.num_train:
            return []
        return [f"{self.label}: train.json lists {found:,} images, VPT's has {self._facts.num_train:,} (not confirmed)"]

    def _image_root(self, folder: Path, lists: dict[str, ImageList]) -> Path:
        """Where the paths of the lists start: the first candidate that holds the first image."""
        candidates = [folder / name for name in self._facts.image_roots]
        first = lists["train"].paths[0]
        for candidate in candidates:
            if (candidate / first).is_file():
                return candidate
        existing = [candidate for candidate in candidates if candidate.is_dir() and any(matching(candidate, "*/*"))]
        if len(candidates) > 1 and existing[:1] == candidates[:1]:
            return candidates[0]  # some images are here: the check of all of them says which are not
        tried = ", ".join(str(candidate / first) for candidate in candidates)
        what = f"{self.label}: the lists are here and the images are not (looked for {tried})."
        raise MissingInput(
            f"{what} {self._images(folder.parent)}", *self._advice(folder.parent), instead=NO_FILES_NEEDED
        )


def read_json_list(file: Path) -> dict[str, str]:
    """Image path -> class id as text, in the order of the file. Raises `BadInput` naming the first bad entries."""
    pairs: list[tuple[str, object]] = []

    def keep(found: list[tuple[str, object]]) -> object:
        pairs[:] = found
        return found

    content = read_json(file, "get the lists again", keep)
    if not pairs or content != pairs:
        raise BadInput(f"{file}: expected one JSON object, image path -> class id, with at least one image")
    repeated = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    problems = [f"'{name}' is listed more than once" for name in repeated]
    for name, label in pairs:
        problem = _entry_problem(name, label)
        if problem is not None:
            problems.append(problem)
    if problems:
        raise BadInput(f"{file}: {shortened(problems, 'entries')}")
    return {name: str(label) for name, label in pairs}


def _entry_problem(name: str, label: object) -> str | None:
    if not name:
        return "an image has no path"
    if isinstance(label, bool) or not isinstance(label, (int, str)) or label == "":
        return f"'{name}': the class id must be an integer or a word, got {label!r}"
    if isinstance(label, int) and label < 0:
        return f"'{name}': the class id must not be negative, got {label}"
    return path_problem(name)


def sorted_ids(ids: Iterable[str]) -> list[str]:
    """By value when all are integers, else by name."""
    found = list(ids)
    if all(label.isascii() and label.isdigit() for label in found):
        return sorted(found, key=lambda label: (int(label), label))
    return sorted(found)


def _class_names(ids: list[str], lists: dict[str, ImageList]) -> tuple[str, ...]:
    """The folder that all images of a class share, where each class has its own; else the ids."""
    folders: dict[int, set[str]] = {}
    for listed in lists.values():
        for path, label in zip(listed.paths, listed.labels.tolist(), strict=True):
            folders.setdefault(label, set()).add(path.rpartition("/")[0].rpartition("/")[2])
    single = [next(iter(folders[label])) for label in range(len(ids)) if len(folders[label]) == 1]
    return tuple(single) if len(set(single)) == len(ids) and "" not in single else tuple(ids)
