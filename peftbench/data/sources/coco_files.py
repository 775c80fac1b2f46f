"""Instance files of COCO's form: images, categories and boxes out of JSON, each checked before anything is read of it.

https://cocodataset.org/#format-data: a box is left, top, width and height in pixels from the image's upper left corner.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from peftbench.data.boxes import COLUMNS
from peftbench.data.sources.image_lists import path_problem, read_json, shortened
from peftbench.foundation.entries import matching
from peftbench.foundation.errors import BadInput

# how far a box may reach over the border of its image, in pixels: tools round
SLACK = 1.0
MOST_BOXES = 1000
# no coordinate; NaN and infinity are not below it
_FAR = 1e9


@dataclass(frozen=True)
class Annotated:
    """Images in the file's order: their names and sizes (width, height), and of each the boxes float32 [num, 6].

    `categories`: id -> name, in the order of the ids, which is that of the classes.
    """

    images: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    boxes: tuple[np.ndarray, ...]
    categories: dict[int, str]

    @property
    def most(self) -> int:
        """The number of boxes in the image that has most."""
        return max(map(len, self.boxes))

    def take(self, rows: Sequence[int]) -> Annotated:
        """The images at `rows`, in that order."""
        images, sizes = tuple(self.images[row] for row in rows), tuple(self.sizes[row] for row in rows)
        return Annotated(images, sizes, tuple(self.boxes[row] for row in rows), self.categories)


def read_instances(path: Path) -> Annotated:
    """Boxes of no width or height, which COCO itself has, are left out.

    Raises `BadInput` in one line for what is no such file or contradicts itself.
    """
    read = _parsed(path)
    categories = _categories(path, read["categories"])
    images = _images(path, read["images"])
    number = {category: place for place, category in enumerate(categories)}
    rows: dict[int, list[tuple[float, ...]]] = {image: [] for image in images}
    problems = []
    for place, item in enumerate(read["annotations"]):
        if problem := _problem(item, images, categories):
            problems.append(f"annotation {item.get('id', place) if isinstance(item, dict) else place} {problem}")
            continue
        (left, top, wide, tall), (_, (width, height)) = item["bbox"], images[item["image_id"]]
        sides = max(left, 0.0), max(top, 0.0), min(left + wide, width), min(top + tall, height)
        if wide > 0 and tall > 0:
            rows[item["image_id"]].append((*sides, number[item["category_id"]], bool(item.get("iscrowd", 0))))
    crowded = [images[image][0] for image, found in rows.items() if len(found) > MOST_BOXES]
    problems += [f"{name} has more than {MOST_BOXES:,} boxes" for name in crowded]
    if problems:
        raise BadInput(f"{path}: {shortened(problems, 'annotations')}; correct or remove them")
    if not any(rows.values()):
        raise BadInput(f"{path}: it has no boxes; a file of instances has a bbox in each of its annotations")
    names, sizes = zip(*images.values(), strict=True)
    boxes = tuple(np.array(found, np.float32).reshape(-1, COLUMNS) for found in rows.values())
    return Annotated(names, sizes, boxes, categories)


def _parsed(path: Path) -> dict[str, list[Any]]:
    read = read_json(path)
    missing = [key for key in ("images", "annotations", "categories") if not isinstance(_of(read, key), list)]
    if missing:
        raise BadInput(f"{path}: there is no list of {' and of '.join(missing)} in it; it is no COCO file of instances")
    return {key: read[key] for key in ("images", "annotations", "categories")}


def _categories(path: Path, items: Iterable[Any]) -> dict[int, str]:
    found: dict[int, str] = {}
    for item in items:
        number, name = _of(item, "id"), _of(item, "name")
        if not _whole(number) or not isinstance(name, str) or not name.strip():
            raise BadInput(f"{path}: a category has no whole number for an id and no name: {str(item)[:80]}")
        if number in found or name in found.values():
            raise BadInput(f"{path}: category {number} '{name}' stands there twice; keep one")
        found[number] = name
    return dict(sorted(found.items()))


def _images(path: Path, items: Iterable[Any]) -> dict[int, tuple[str, tuple[int, int]]]:
    """Id -> file and size, in the file's order."""
    found: dict[int, tuple[str, tuple[int, int]]] = {}
    names: set[str] = set()
    for item in items:
        number, name, size = _of(item, "id"), _of(item, "file_name"), (_of(item, "width"), _of(item, "height"))
        if not _whole(number) or not isinstance(name, str) or not name or not all(_whole(side, 1) for side in size):
            raise BadInput(f"{path}: an image lacks its id, file_name, width or height: {str(item)[:80]}")
        if problem := path_problem(name):
            raise BadInput(f"{path}: {problem}")
        if number in found or name in names:
            raise BadInput(f"{path}: image {number} '{name}' stands there twice; keep one")
        found[number] = name, size
        names.add(name)
    if not found:
        raise BadInput(f"{path}: it lists no images")
    return found


def _problem(item: Any, images: dict[int, tuple[str, tuple[int, int]]], categories: dict[int, str]) -> str:
    """What is wrong with an annotation, or nothing."""
    image, category, box = (_of(item, key) for key in ("image_id", "category_id", "bbox"))
    if not _whole(image) or image not in images:
        return f"is of image {image!r:.40}, which the file does not list"
    if not _whole(category) or category not in categories:
        return f"has category {category!r:.40}, which the file does not list"
    if not isinstance(box, list) or len(box) != 4 or not all(map(_number, box)):
        return f"has bbox {str(box)[:60]}, which must be four numbers: left, top, width, height"
    (left, top, wide, tall), (name, (width, height)) = box, images[image]
    over = max(-left, -top, left + wide - width, top + tall - height) > SLACK
    if over or wide < 0 or tall < 0:
        return f"has bbox {box}, which does not lie in {name} of {width} x {height} pixels"
    if item.get("iscrowd", 0) not in (0, 1):
        return f"has iscrowd {item['iscrowd']!r:.40}, which must be 0 or 1"
    return ""


def _of(item: Any, key: str) -> Any:
    return item.get(key) if isinstance(item, dict) else None


def _whole(value: Any, least: int | None = None) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and (least is None or value >= least)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _FAR


def instance_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """What follows `instances_` in the names of the files there, in order: `train2017`, `val2017`."""
    for path in matching(folder, "instances_*.json"):
        yield path.stem.removeprefix("instances_"), path
