"""One's own images in class folders."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import ClassVar

import numpy as np

from peftbench.data.base import DATASETS
from peftbench.data.shipped import NO_FILES_NEEDED
from peftbench.data.sources.image_lists import ImageList, listed_files
from peftbench.data.sources.obstacles import refuse
from peftbench.data.sources.own_files import Listing, OwnFiles, differ_in_part, folders_of_parts, part_in
from peftbench.foundation.errors import BadInput, MissingInput
from peftbench.foundation.location import user_path
from peftbench.foundation.spec import option
from peftbench.foundation.system import unreadable
from peftbench.foundation.terminal import number_of

SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
# what systems leave behind unasked, besides hidden files
LITTER = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
_LAYOUT = "<root>/<class>/<image>, or <root>/train/<class>/<image> and <root>/test/<class>/<image>"


@DATASETS.add("folder")
@dataclass(frozen=True)
class Folder(OwnFiles):
    """Class folders in `root`, or train/, test/ and perhaps val/ that hold the class folders.

    Parts may be called Training, test_set, valid and the like. What looks like a part and is called otherwise is
    refused, and so are parts without one that trains.
    Class folders are ordered by name, or by number when all names are numbers; images may lie deeper inside them.
    """

    root: str | None = option(None, location=True)

    layout: ClassVar[str] = _LAYOUT

    @property
    def label(self) -> str:
        return self.title or (self._place().name if self.root else self.name)

    def _place(self) -> Path:
        return user_path(self.root or "", "dataset.root").absolute()

    def inputs(self) -> list[Path]:
        listing = self.listing()
        return listed_files(listing.folder, listing.parts)

    def places(self) -> list[Path]:
        return [self._place()]

    def _root(self) -> Path:
        """The folder. Raises `MissingInput` where there is none."""
        root = self._place()
        if self.root is None:
            raise MissingInput(
                f"set dataset.root=<folder of class folders> ({self.layout}).",
                instead=NO_FILES_NEEDED,
                same_line=True,
            )
        if not root.is_dir():
            what = "it is a file" if root.is_file() else "there is no such folder"
            raise MissingInput(f"dataset.root={self.root}: {what}; set it to a folder of class folders ({self.layout})")
        return root

    def listing(self) -> Listing:
        root = self._root()
        top = self._subfolders(root)
        parts = self._parts(root, top)
        classes = {part: self._subfolders(root / folder) if folder else top for part, folder in parts.items()}
        names = sorted_classes({name for found in classes.values() for name in found})
        if not names:
            _loose_images(root)
            raise BadInput(f"{root}: no class folders; dataset.root takes {_LAYOUT}")
        if len(names) < 2:
            raise BadInput(f"{root}: only one class folder, '{names[0]}'; a classifier needs two ({_LAYOUT})")
        left_out = [name for folder in {"", *parts.values()} for name in _loose_images(root / folder)]
        lists = {}
        for part, folder in parts.items():
            lists[part], others = class_images(root, folder, names, classes[part], self.follow_links)
            left_out += others
        return Listing(root, tuple(names), lists, self._notes(left_out))

    def _parts(self, root: Path, top: list[str]) -> dict[str, str]:
        """Part -> its folder; `all` -> "" where the folders in `root` are the classes themselves."""
        parts = folders_of_parts(root, top)
        known = [name for name in top if name in parts.values()]
        others = [name for name in top if name not in known]
        if others and {"train", "test"} <= set(parts):
            raise BadInput(
                f"{root}: beside {'/, '.join(known)}/ there is {others[0]}/; dataset.root takes {_LAYOUT}: "
                "move away what is neither"
            )
        # where others lie beside it, train is a class, as in bus, car, train
        if others or "train" not in parts:
            refuse_hidden_parts(root, top, _LAYOUT)
            return {"all": ""}
        if "test" not in parts:
            raise BadInput(
                f"{root}: {'/, '.join(known)}/ and no test/; name the part that is to be reported test/, or give the "
                "class folders alone to have them divided"
            )
        return {part: _unpacked(root, parts[part]) for part in ("train", "val", "test") if part in parts}

    def _subfolders(self, folder: Path) -> list[str]:
        found = []
        for entry in filter(_is_folder, _entries(folder)):
            try:
                _refuse_linked(entry, self.follow_links)
            except BadInput as error:
                refuse(error)
            else:
                found.append(entry.name)
        return found

    def _notes(self, left_out: list[str]) -> tuple[str, ...]:
        if not left_out:
            return ()
        shown = ", ".join(sorted(left_out)[:3])
        return (
            f"{self.label}: {number_of(len(left_out), 'file')} left out for the name, which does not end like an "
            f"image's: {shown}",
        )


def refuse_hidden_parts(root: Path, top: list[str], layout: str, otherwise: str = "rename what is no part") -> None:
    """Raises `BadInput` where folders `top` of `root` that are taken for something else are parts: tests would train.

    One that speaks of a part is, where it holds folders like those beside it, or like those in another part; all are,
    where nothing else lies there and they hold folders at all or are of one name but for the part.
    """
    like = {name: part for name in top if (part := part_in(name)) is not None}
    inside = {name: _folders_in(root, name) for name in like}
    beside = {name.lower() for name in top if name not in like}
    alone = not beside and len(set(like.values())) > 1
    hidden = alone and (any(inside.values()) or differ_in_part(like))
    hidden = hidden or any(_alike(folders, beside) for folders in inside.values())
    hidden = hidden or any(
        like[first] != like[second] and _alike(inside[first], inside[second]) for first, second in combinations(like, 2)
    )
    if hidden:
        raise BadInput(
            f"{root}: {'/, '.join(like)}/: names of parts that would not be read as parts, so that test images would "
            f"train; call the parts train/, test/ and perhaps val/ and move away what is neither ({layout}), or "
            f"{otherwise}"
        )


def _alike(some: set[str], others: set[str]) -> bool:
    """Whether the smaller of two sets of names is at least half in the other."""
    return 0 < min(len(some), len(others)) <= 2 * len(some & others)


def _folders_in(root: Path, name: str) -> set[str]:
    """What folders a folder holds, in lower case."""
    return {entry.name.lower() for entry in _entries(root / _unpacked(root, name)) if _is_folder(entry)}


def _unpacked(root: Path, name: str) -> str:
    """A folder, or the one of the same name in it where that is all it holds, as some archives are packed."""
    inside = _entries(root / name)
    return f"{name}/{name}" if len(inside) == 1 and inside[0].name == name and _is_folder(inside[0]) else name


def sorted_classes(names: set[str]) -> list[str]:
    """By name, case-sensitively; by value when all are whole numbers."""
    if all(name.isascii() and name.isdigit() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def class_images(
    root: Path, folder: str, names: list[str], present: list[str], follow_links: bool, layout: str = _LAYOUT
) -> tuple[ImageList, list[str]]:
    """The images of a part, class after class, each in order of name; and what else lies there."""
    paths: list[str] = []
    labels: list[int] = []
    left_out: list[str] = []
    for name in present:
        below = f"{folder}/{name}" if folder else name
        try:
            found, others = _files_below(root, below, follow_links)
            if not found:
                raise BadInput(f"{root / below}: no images in this class folder; add some or remove the folder")
        except BadInput as error:
            refuse(error)
            continue
        paths += found
        labels += [names.index(name)] * len(found)
        left_out += others
    if not present:
        raise BadInput(f"{root / folder}: no class folders; dataset.root takes {layout}")
    return ImageList(tuple(paths), np.array(labels, dtype=np.int64)), left_out


def _files_below(root: Path, below: str, follow_links: bool) -> tuple[list[str], list[str]]:
    """Image files and other files in `root/below` and its folders, as paths from `root`, in order of name."""
    images: list[str] = []
    others: list[str] = []
    for entry in _entries(root / below):
        path = f"{below}/{entry.name}"
        if _is_folder(entry):
            try:
                if _is_image(entry.name):
                    raise BadInput(
                        f"{entry.path}: a folder with the name of an image; rename it or put the image there"
                    )
                _refuse_linked(entry, follow_links)
                deeper = _files_below(root, path, follow_links)
            except BadInput as error:
                refuse(error)
                continue
            images += deeper[0]
            others += deeper[1]
        else:
            (images if _is_image(entry.name) else others).append(path)
    return images, others


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        raise unreadable(error, entry.path) from error


def _loose_images(root: Path) -> list[str]:
    """Files beside the class folders. Refuses images, which would have no class."""
    files = [entry.name for entry in _entries(root) if not _is_folder(entry)]
    images = [name for name in files if _is_image(name)]
    if images:
        refuse(
            BadInput(
                f"{root}: {len(images)} images lie beside the class folders, first {images[0]}; put each into its class"
            )
        )
    return [name for name in files if not _is_image(name)]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, in order of name, without hidden files and litter."""
    try:
        with os.scandir(folder) as found:
            return sorted(
                (entry for entry in found if entry.name[0] != "." and entry.name.lower() not in LITTER),
                key=lambda entry: entry.name,
            )
    except OSError as error:
        raise unreadable(error, folder) from error


def _refuse_linked(entry: os.DirEntry[str], follow_links: bool) -> None:
    """Raises `BadInput` for a linked folder that is not to be followed, or that leads back to a folder above it."""
    if not entry.is_symlink():
        return
    target = os.path.realpath(entry.path)
    if not follow_links:
        raise BadInput(
            f"{entry.path}: a link to a folder, {target}, which may lie outside dataset.root or lead in circles; put "
            "the images themselves there, or set dataset.follow_links=true"
        )
    if Path(entry.path).parent.resolve().is_relative_to(target):
        raise BadInput(f"{entry.path}: a link to a folder above it, {target}; take it away")


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES
