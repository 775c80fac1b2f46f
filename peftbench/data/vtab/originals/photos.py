"""Originals that are folders of photographs, laid out as torchvision unpacks them."""

from __future__ import annotations

from pathlib import Path

from peftbench.data.matlab_files import variables
from peftbench.data.tfds_order import hash_order
from peftbench.data.vtab.originals.examples import Examples, Splits, class_folders, file_examples, lines_of
from peftbench.foundation.errors import BadInput

_JPEG = (".jpg", ".jpeg")
CALTECH_PER_CLASS = 30


def dtd(root: Path) -> tuple[Splits, tuple[str, ...]]:
    """Fold 1 of the describable textures (arXiv:1311.3618). Key and label: `<class>/<file>` of the official lists."""
    folder = root / "dtd" / "dtd"
    lists = {
        split: lines_of(folder / "labels" / f"{name}1.txt")
        for split, name in (("train", "train"), ("validation", "val"), ("test", "test"))
    }
    names = tuple(sorted({line.split("/")[0] for lines in lists.values() for line in lines}))
    number = {name: label for label, name in enumerate(names)}
    splits = {
        split: file_examples(
            lines, [folder / "images" / line for line in lines], [number[line.split("/")[0]] for line in lines]
        )
        for split, lines in lists.items()
    }
    return splits, names


def flowers(root: Path) -> tuple[Splits, tuple[str, ...]]:
    """Oxford Flowers 102. Key: `image_00001.jpg`; label: the official one minus 1."""
    folder = root / "flowers-102"
    with (folder / "imagelabels.mat").open("rb") as numbered, (folder / "setid.mat").open("rb") as divided:
        labels = variables(numbered, numbered.name, squeeze_me=True)["labels"]
        parts = variables(divided, divided.name, squeeze_me=True)
    splits = {}
    for split, name in (("train", "trnid"), ("validation", "valid"), ("test", "tstid")):
        numbers = parts[name].tolist()
        keys = [f"image_{number:05d}.jpg" for number in numbers]
        splits[split] = file_examples(keys, [folder / "jpg" / key for key in keys], labels[parts[name] - 1] - 1)
    return splits, tuple(f"flower {label + 1}" for label in range(102))


def pets(root: Path) -> tuple[Splits, tuple[str, ...]]:
    """Oxford-IIIT Pet. Key: the file name; label: the breed id (not the species) minus 1."""
    folder = root / "oxford-iiit-pet"
    splits: Splits = {}
    names: dict[int, str] = {}
    for split, name in (("train", "trainval"), ("test", "test")):
        rows = [line.split() for line in lines_of(folder / "annotations" / f"{name}.txt") if not line.startswith("#")]
        keys = [f"{row[0]}.jpg" for row in rows]
        labels = [int(row[1]) - 1 for row in rows]
        names |= {label: row[0].rpartition("_")[0] for row, label in zip(rows, labels, strict=True)}
        splits[split] = file_examples(keys, [folder / "images" / key for key in keys], labels)
    return splits, tuple(names.get(label, str(label)) for label in range(37))


def sun397(root: Path) -> tuple[Splits, tuple[str, ...]]:
    """SUN397 by TFDS's own three lists. Key: the path below the folder, with a slash before it."""
    folder = root / "SUN397"
    lists = {
        split: [f"/{line.lstrip('/')}" for line in lines_of(folder / f"sun397_tfds_{name}.txt")]
        for split, name in (("train", "tr"), ("validation", "va"), ("test", "te"))
    }
    names = tuple(sorted({key.rpartition("/")[0] for keys in lists.values() for key in keys}))
    number = {name: label for label, name in enumerate(names)}
    splits = {
        split: file_examples(keys, [folder / key[1:] for key in keys], [number[key.rpartition("/")[0]] for key in keys])
        for split, keys in lists.items()
    }
    return splits, names


def eurosat(root: Path) -> tuple[Splits, tuple[str, ...]]:
    """EuroSAT, RGB. Key: class, underscore, file name."""
    return _one_split(root / "eurosat" / "2750")


def resisc45(root: Path) -> tuple[Splits, tuple[str, ...]]:
    """NWPU-RESISC45. Key: class, underscore, file name."""
    return _one_split(root / "NWPU-RESISC45")


def _one_split(folder: Path) -> tuple[Splits, tuple[str, ...]]:
    classes, files, paths = class_folders(folder, _JPEG)
    names = tuple(sorted(set(classes)))
    number = {name: label for label, name in enumerate(names)}
    keys = [f"{name}_{file}" for name, file in zip(classes, files, strict=True)]
    return {"train": file_examples(keys, paths, [number[name] for name in classes])}, names


def caltech101(root: Path) -> tuple[Splits, tuple[str, ...]]:
    """Caltech-101 with its background class, labels as in TFDS: folder names in lower case, sorted.

    TFDS's own 30 training images a class follow the order in which a disk listed them and cannot be drawn again;
    these are 30 a class by a hash of seed 0, and the rest is the test split.
    """
    classes, files, paths = class_folders(root / "caltech101" / "101_ObjectCategories", _JPEG)
    lowered = [name.lower() for name in classes]
    names = tuple(sorted(set(lowered)))
    by_class: dict[str, list[int]] = {name: [] for name in names}
    for row, name in enumerate(lowered):
        by_class[name].append(row)
    parts: dict[str, list[int]] = {"train": [], "test": []}
    for name, rows in by_class.items():
        if len(rows) <= CALTECH_PER_CLASS:
            raise BadInput(f"{root / 'caltech101'}: class {name} has {len(rows)} images, more than 30 are needed")
        order = hash_order(f"caltech101-seed0:{name}/", [files[row] for row in rows])
        parts["train"] += [rows[place] for place in order[:CALTECH_PER_CLASS]]
        parts["test"] += [rows[place] for place in order[CALTECH_PER_CLASS:]]
    splits: dict[str, Examples] = {}
    for split, rows in parts.items():
        keys = [f"{lowered[row]}/{files[row]}" for row in rows]
        splits[split] = file_examples(keys, [paths[row] for row in rows], [names.index(lowered[row]) for row in rows])
    return splits, names
