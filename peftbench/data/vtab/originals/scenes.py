"""Originals whose labels are worked out from annotations: CLEVR, KITTI and DMLab."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from peftbench.data.pixels.decode import decode_image
from peftbench.data.raw import RawSplit
from peftbench.data.vtab.originals.examples import Examples, Splits, file_examples, lines_of
from peftbench.data.vtab.originals.tfrecord import Record, scan
from peftbench.foundation.digests import files_digest
from peftbench.foundation.entries import matching
from peftbench.foundation.errors import BadInput, MissingInput

if TYPE_CHECKING:
    from PIL.Image import Image

_DEPTHS = (8.0, 8.5, 9.0, 9.5, 10.0)  # upper ends, inclusive, of CLEVR's distance classes
_METRES = (8.0, 20.0)  # the same for KITTI
_VEHICLES = ("Car", "Van", "Truck")
_HOW_FAR = ("close", "far", "very far")


def clevr_count(root: Path) -> tuple[Splits, tuple[str, ...]]:
    """CLEVR by the number of objects, 3 to 10. Key: the image's file name."""
    return _clevr(root, lambda objects: len(objects) - 3), tuple(f"{label + 3} objects" for label in range(8))


def clevr_dist(root: Path) -> tuple[Splits, tuple[str, ...]]:
    """CLEVR by the depth of the nearest object, in six bins. Key: the image's file name."""
    names = ("up to 8.0", "8.0 to 8.5", "8.5 to 9.0", "9.0 to 9.5", "9.5 to 10.0", "beyond 10.0")
    return _clevr(root, lambda objects: nearest_bin([item["pixel_coords"][2] for item in objects], _DEPTHS)), names


def nearest_bin(distances: list[float], upper_ends: tuple[float, ...]) -> int:
    """The bin of the smallest distance; a distance equal to an upper end still lies in that bin."""
    return int(np.searchsorted(upper_ends, min(distances), side="left"))


def _clevr(root: Path, label_of: Callable[[list[dict[str, Any]]], int]) -> Splits:
    folder = root / "clevr" / "CLEVR_v1.0"
    splits = {}
    for split, name in (("train", "train"), ("validation", "val")):
        path = folder / "scenes" / f"CLEVR_{name}_scenes.json"
        try:
            scenes = json.loads(path.read_bytes())["scenes"]
            keys = [scene["image_filename"] for scene in scenes]
            labels = [label_of(scene["objects"]) for scene in scenes]
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise BadInput(f"{path}: not CLEVR's scene file ({error!r}); unpack the archive again") from error
        splits[split] = file_examples(keys, [folder / "images" / name / key for key in keys], labels)
    return splits


def kitti(root: Path) -> tuple[Splits, tuple[str, ...]]:
    """KITTI by the distance of the nearest vehicle ahead. Key: the image's file name; splits are cut by video."""
    folder = root / "Kitti" / "raw"
    labels = folder / "training" / "label_2"
    splits = {}
    for split, numbers in kitti_splits(_mapping(folder)).items():
        keys = [f"{number:06d}.png" for number in numbers]
        known = [kitti_label(lines_of(labels / f"{number:06d}.txt")) for number in numbers]
        splits[split] = file_examples(keys, [folder / "training" / "image_2" / key for key in keys], known)
    return splits, ("up to 8 m", "8 to 20 m", "beyond 20 m", "no vehicle")


def kitti_label(lines: list[str]) -> int:
    """0 to 2 by the smallest forward distance over cars, vans and trucks, 3 where there is none."""
    objects = [line.split(" ") for line in lines]
    distances = [float(item[13]) for item in objects if item[0] in _VEHICLES]
    return nearest_bin(distances, _METRES) if distances else 3


def _mapping(folder: Path) -> list[str]:
    """The video each labelled image comes from, by image number, out of the object devkit."""
    for place in (folder / "mapping", folder / "devkit_object" / "mapping"):
        if (place / "train_rand.txt").is_file():
            lines = lines_of(place / "train_mapping.txt")
            order = [int(word) for word in (place / "train_rand.txt").read_text().replace("\n", "").split(",") if word]
            return [lines[line - 1].split()[1] for line in order]
    raise MissingInput(
        f"vtab/kitti: the split by video needs devkit_object.zip (64 kB, "
        f"https://s3.eu-central-1.amazonaws.com/avg-kitti/devkit_object.zip) unpacked to {folder / 'devkit_object'}"
    )


def kitti_splits(videos: list[str]) -> dict[str, list[int]]:
    """Image numbers of TFDS's splits: a tenth of the videos is test, another tenth validation, by NumPy's seed 123."""
    chance = np.random.RandomState(123)
    names = sorted(set(videos))
    num_chosen = max(1, len(names) * 10 // 100)
    test = set(chance.choice(names, num_chosen, replace=False))
    validation = set(chance.choice(sorted(set(names) - test), num_chosen, replace=False))
    splits: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for number, video in enumerate(videos):
        splits["test" if video in test else "validation" if video in validation else "train"].append(number)
    return splits


def dmlab(root: Path) -> tuple[Splits, tuple[str, ...]]:
    """DMLab frames out of TFRecord files. Key: the file name stored with each frame."""
    splits = {}
    for split in ("train", "validation", "test"):
        files = list(matching(root / "dmlab", f"dmlab-{split}.tfrecord*"))
        records = [record for file in files for record in scan(file)]
        keys = [str(record.values["filename"].decode("utf-8")) for record in records]
        labels = np.array([record.numbers["label"] for record in records], dtype=np.int64)
        splits[split] = _record_examples(records, keys, labels)
    return splits, tuple(f"{reward} reward, {how}" for reward in ("positive", "negative") for how in _HOW_FAR)


def _record_examples(records: list[Record], keys: list[str], labels: np.ndarray) -> Examples:
    return Examples(keys, labels, lambda rows: RecordSplit([records[row] for row in rows], labels[rows]))


class RecordSplit(RawSplit):
    """Encoded images inside TFRecord files."""

    def __init__(self, records: list[Record], labels: np.ndarray) -> None:
        self.records, self.labels = records, labels

    def content_digest(self) -> str:
        files = sorted({record.path for record in self.records})
        places = ",".join(f"{files.index(record.path)}:{record.start}" for record in self.records)
        return hashlib.sha256(f"{files_digest(files)}\n{places}".encode()).hexdigest()

    def read(self, index: int) -> Image:
        record = self.records[index]
        return decode_image(record.image(), f"{record.path} at byte {record.start}")
