"""Lists of image files with labels: paths that stay inside their folder, and the check that every image is there."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from peftbench.data.sources.obstacles import is_collecting, refuse
from peftbench.foundation.digests import digests_of
from peftbench.foundation.errors import BadInput
from peftbench.foundation.system import unreadable


@dataclass(frozen=True)
class ImageList:
    """`paths`: relative to the folder of the dataset, in order; `labels`: int64 [num_images]."""

    paths: tuple[str, ...]
    labels: np.ndarray

    def __add__(self, other: ImageList) -> ImageList:
        return ImageList(self.paths + other.paths, np.concatenate([self.labels, other.labels]))


def read_text(path: Path) -> str:
    """The text of a list file, its line ends as they are. Raises `BadInput` when it cannot be read as UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from error


def read_json(
    path: Path,
    advice: str = "copy it again",
    object_pairs_hook: Callable[[list[tuple[str, object]]], object] | None = None,
) -> Any:
    """What a JSON file holds. Raises `BadInput` where it is none, with what to do then."""
    try:
        return json.loads(read_text(path), object_pairs_hook=object_pairs_hook)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not JSON ({error}); {advice}") from error


def path_problem(name: str) -> str | None:
    """Why a listed path cannot be used: an address, absolute, or leading out of its folder."""
    if "://" in name:
        return address_problem(name)
    if "\0" in name or name[0] in "/\\" or name[1:2] == ":":
        return f"the path must be relative to the dataset's folder, got '{name}'"
    if ".." in name and ".." in re.split(r"[/\\]", name):
        return f"the path must stay inside the dataset's folder, got '{name}'"
    return None


def address_problem(name: str) -> str:
    """Why `name`, an address in the web, is no path."""
    return f"images are read from disk: download it and list its file's path, got '{name}'"


def shortened(problems: list[str], rest: str = "lines") -> str:
    """The first three of several problems, and how many `rest` have more."""
    more = f" (and {len(problems) - 3} more {rest})" if len(problems) > 3 else ""
    return "; ".join(problems[:3]) + more


def image_sizes(folder: Path, names: Iterable[str], follow_links: bool = False) -> dict[str, int]:
    """Size in bytes of every listed image, by one scan of each directory the lists name.

    Raises `BadInput` when images are missing, empty, or links that lead outside `folder` and are not to be followed.
    Missing and empty ones are left to who decodes all images, while obstacles are collected.
    """
    inside = None if follow_links else os.path.realpath(folder)
    found: dict[str, dict[str, int | None]] = {}
    sizes: dict[str, int | None] = {}
    there = False
    for name in names:
        parent, _, file = name.rpartition("/")
        if parent not in found:
            found[parent] = _scan(folder / parent, inside)
        sizes[name] = found[parent].get(file)
        there = there or file in found[parent]
    if sizes and not there:
        first = next(iter(sizes))
        raise BadInput(
            f"{folder}: none of the {len(sizes)} listed images is there, first {first}; the folder where the paths "
            f"start is another: set dataset.root={_root_of(folder, first) or f'<the folder that holds {first}>'}"
        )
    for problem, bad in (
        ("are missing", [name for name, size in sizes.items() if size is None]),
        ("are empty (0 bytes)", [name for name, size in sizes.items() if size == 0]),
    ):
        if bad and not is_collecting():
            raise BadInput(
                f"{folder}: {len(bad)} of {len(sizes)} listed images {problem}: {', '.join(bad[:3])}"
                f"{', ...' if len(bad) > 3 else ''}; copy them again, or take them off the list"
            )
    return {name: size for name, size in sizes.items() if size is not None}


def none_there(folder: Path, lists: Mapping[str, ImageList]) -> str | None:
    """Why lists speak of another place, where not one of their images is in `folder`; None where some are.

    For sets whose folder has a name of its own below `dataset.root`, so that its place is no matter of `image_sizes`.
    """
    if any((folder / name).is_file() for images in lists.values() for name in images.paths):
        return None
    names = dict.fromkeys(name for images in lists.values() for name in images.paths)
    return f"none of the {len(names):,} listed images is there, first {next(iter(names))}" if names else None


def _root_of(folder: Path, name: str) -> Path | None:
    """A folder near `folder` below which `name` lies."""
    try:
        return next((place for place in places_near(folder) if (place / name).is_file()), None)
    except OSError:
        return None


def places_near(folder: Path) -> list[Path]:
    """Folders where images may lie instead: two above it, and those in it."""
    try:
        within = sorted(entry for entry in folder.iterdir() if entry.is_dir())[:100]
    except OSError:
        within = []
    return [*folder.parents[:2], *within]


def sizes_of_all(folder: Path, lists: Mapping[str, ImageList], follow_links: bool = False) -> dict[str, int]:
    """`image_sizes` of all images of several lists."""
    names = dict.fromkeys(name for images in lists.values() for name in images.paths)
    return image_sizes(folder, names, follow_links)


def lists_digest(folder: Path, lists: Mapping[str, ImageList], follow_links: bool = False) -> str:
    """SHA-256 (hex) over part, path, label and the bytes of every listed image.

    The bytes are read where they are not known from an earlier reading (see `foundation.digests`).
    """
    sizes_of_all(folder, lists, follow_links)
    names = list(dict.fromkeys(name for images in lists.values() for name in images.paths))
    known = dict(zip(names, digests_of([folder / name for name in names]), strict=True))
    digest = hashlib.sha256()
    for part, images in lists.items():
        for name, label in zip(images.paths, images.labels.tolist(), strict=True):
            digest.update(f"{part}\n{name}\n{label}\n".encode("utf-8", "surrogateescape") + known[name])
    return digest.hexdigest()


def listed_files(folder: Path, lists: Mapping[str, ImageList]) -> list[Path]:
    """Every listed image once, and every folder one lies in or below, whose time changes when a file comes or goes."""
    names = dict.fromkeys(name for images in lists.values() for name in images.paths)
    folders = {name.rpartition("/")[0] for name in names}
    folders |= {"/".join(parts[:end]) for name in folders for parts in [name.split("/")] for end in range(len(parts))}
    return [*(folder / name for name in sorted(folders)), *(folder / name for name in names)]


def refuse_overlap(place: Path, lists: Mapping[str, ImageList]) -> None:
    """Raises `BadInput` when two lists name the same image."""
    for first, second in combinations(lists, 2):
        shared = set(lists[first].paths) & set(lists[second].paths)
        if shared:
            refuse(
                BadInput(
                    f"{place}: {len(shared)} images are listed in both {first} and {second}, first {min(shared)}; "
                    "the splits must not share images"
                )
            )


def refuse_outside(path: Path, inside: str) -> None:
    """Raises `BadInput` when `path` leads, through links, to a place that is not in the real folder `inside`."""
    target = os.path.realpath(path)
    if os.path.commonpath([target, inside]) != inside:
        raise BadInput(
            f"{path}: links outside the dataset's folder, to {target}; put the file itself there (own images: or set "
            "dataset.follow_links=true)"
        )


def _scan(directory: Path, inside: str | None) -> dict[str, int | None]:
    """File name -> size of what lies in `directory`; empty when there is no such directory.

    Links may lead nowhere but into the real folder `inside`, if one is given; while obstacles are collected, those that
    lead out of it have no size.
    """
    if inside is not None:
        refuse_outside(directory, inside)
    sizes: dict[str, int | None] = {}
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_symlink() and inside is not None:
                    try:
                        refuse_outside(Path(entry.path), inside)
                    except BadInput as error:
                        refuse(error)
                        sizes[entry.name] = None
                        continue
                if entry.is_file():
                    sizes[entry.name] = entry.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise unreadable(error, directory) from error
    return sizes
