"""The lists behind CoOp's sets: its own JSON splits, the official ones of Aircraft, ImageNet's folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from peftbench.data.coop.tasks import CoopSet
from peftbench.data.sources.image_lists import ImageList, path_problem, read_json, read_text, shortened
from peftbench.foundation.errors import BadInput

# parts, class names
Listed = tuple[dict[str, ImageList], list[str]]
PARTS = ("train", "val", "test")


def files_of(facts: CoopSet) -> list[str]:
    """The list files a set is read by, from its folder."""
    if facts.reader == "aircraft":
        return ["variants.txt", *(f"images_variant_{part}.txt" for part in PARTS)]
    return [f"split_zhou_{facts.lists}.json"] if facts.lists else ["classnames.txt"]


def read_lists(folder: Path, facts: CoopSet) -> Listed:
    """Images by part, as paths from `folder`, in the order that the draw depends on, and the class names.

    Raises `BadInput` for damaged lists, `FileNotFoundError` where a file or folder is not there.
    """
    for name in files_of(facts):
        (folder / name).stat()  # an absent file is another message than a damaged one
    return _READERS[facts.reader](folder, facts)


def _zhou(folder: Path, facts: CoopSet) -> Listed:
    """`split_zhou_<set>.json`: part -> [[path, label, class name], ...]."""
    [name] = files_of(facts)
    file = folder / name
    content = read_json(file, "get the lists again")
    if not isinstance(content, dict) or not set(PARTS) <= set(content):
        raise BadInput(f"{file}: expected one JSON object with {', '.join(PARTS)}; get the lists again")
    names: dict[int, str] = {}
    problems = [
        f"{part}[{row}]: {problem}"
        for part in PARTS
        for row, entry in enumerate(_rows(content[part]))
        if (problem := _entry_problem(entry, names))
    ]
    if not problems and sorted(names) != list(range(len(names))):
        problems = [f"the labels are not 0 to {len(names) - 1}"]
    if problems:
        raise BadInput(f"{file}: {shortened(problems, 'entries')}; get the lists again")
    start = f"{facts.images}/" if facts.images else ""
    parts = {part: _image_list((start + path, label) for path, label, _ in content[part]) for part in PARTS}
    return parts, [names[label] for label in range(len(names))]


def _rows(entries: Any) -> Sequence[Any]:
    return entries if isinstance(entries, list) else [entries]


def _entry_problem(entry: Any, names: dict[int, str]) -> str | None:
    """What is wrong with one entry; notes the name of its label in `names`."""
    if not isinstance(entry, list) or [type(item) for item in entry] != [str, int, str] or not entry[0]:
        return "expected [path, label, class name]"
    path, label, name = entry
    if names.setdefault(label, name) != name:
        return f"label {label} is called '{name}' here and '{names[label]}' before"
    return path_problem(path)


def _aircraft(folder: Path, facts: CoopSet) -> Listed:
    """`images_variant_<part>.txt`: the number of the image, a space and the variant, which may hold spaces."""
    names = _lines(folder / "variants.txt")
    numbers = {name: number for number, name in enumerate(names)}
    parts = {}
    for part in PARTS:
        file = folder / f"images_variant_{part}.txt"
        rows = [line.partition(" ") for line in _lines(file)]
        unknown = [name for _, _, name in rows if name not in numbers]
        if unknown:
            raise BadInput(f"{file}: '{unknown[0]}' is not in variants.txt; unpack the archive again")
        problems = [problem for number, _, _ in rows if (problem := path_problem(number))]
        if problems:
            raise BadInput(f"{file}: {shortened(problems)}")
        parts[part] = _image_list((f"{facts.images}/{number}.jpg", numbers[name]) for number, _, name in rows)
    return parts, names


def _imagenet(folder: Path, facts: CoopSet) -> Listed:
    """`images/train` and `images/val`, the validation images being tested on as everywhere.

    Images are in order of name. CoOp takes them as the disk lists them, so its ImageNet draw was one machine's.
    """
    names = _class_names(folder)
    listed = {
        part: _by_class(folder, f"{facts.images}/{place}") for part, place in (("train", "train"), ("test", "val"))
    }
    return _named(folder, listed, names)


def _variant(folder: Path, facts: CoopSet) -> Listed:
    """One folder of images a class, called by WordNet id, or by its place in `classnames.txt` (V2)."""
    names = _class_names(folder)
    images = _by_class(folder, facts.images)
    if all(name.isascii() and name.isdigit() for name in images):
        wnids = list(names)
        beyond = [name for name in images if int(name) >= len(wnids)]
        if beyond:
            raise BadInput(f"{folder}: class folder {beyond[0]} and only {len(wnids)} lines in classnames.txt")
        images = {wnids[int(name)]: paths for name, paths in images.items()}
    return _named(folder, {"test": images}, names)


def _named(folder: Path, listed: dict[str, dict[str, list[str]]], names: dict[str, str]) -> Listed:
    """Parts as lists, whose classes are those of the first part in order of WordNet id."""
    wnids = sorted(next(iter(listed.values())))
    unknown = [wnid for images in listed.values() for wnid in images if wnid not in names or wnid not in wnids]
    if unknown:
        raise BadInput(f"{folder}: class folder {unknown[0]} has no line in classnames.txt, or no training images")
    numbers = {wnid: number for number, wnid in enumerate(wnids)}
    parts = {
        part: _image_list((path, numbers[wnid]) for wnid in sorted(images) for path in images[wnid])
        for part, images in listed.items()
    }
    return parts, [names[wnid] for wnid in wnids]


def _class_names(folder: Path) -> dict[str, str]:
    """`classnames.txt`: WordNet id, a space, CLIP's name of the class."""
    rows = [line.partition(" ") for line in _lines(folder / "classnames.txt")]
    bare = [wnid for wnid, _, name in rows if not name]
    if bare:
        raise BadInput(f"{folder / 'classnames.txt'}: no class name behind {bare[0]}; get the file again")
    return {wnid: name for wnid, _, name in rows}


def _by_class(folder: Path, images: str) -> dict[str, list[str]]:
    """Class folder -> its files as paths from `folder`, all in order of name."""
    places = sorted(place for place in (folder / images).iterdir() if place.is_dir() and place.name[0] != ".")
    return {
        place.name: [f"{images}/{place.name}/{file.name}" for file in sorted(place.iterdir()) if file.name[0] != "."]
        for place in places
    }


def _image_list(pairs: Any) -> ImageList:
    found = list(pairs)
    return ImageList(tuple(path for path, _ in found), np.array([label for _, label in found], dtype=np.int64))


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in read_text(file).split("\n") if line.strip()]


_READERS: dict[str, Callable[[Path, CoopSet], Listed]] = {
    "lists": _zhou,
    "aircraft": _aircraft,
    "imagenet": _imagenet,
    "variant": _variant,
}
