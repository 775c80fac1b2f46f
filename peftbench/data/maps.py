"""Maps that belong to images: a value or a vector at every pixel, and how each kind is checked and drawn.

uint8 [height, width] with 255 where nothing is known: `class_map`, `human_parts` (one of `PARTS`), `edges` and
`saliency` (1 on an edge, 1 on what stands out). float32 with NaN there: `depth` [height, width], `normals`
[3, height, width] (unit vectors, x to the right). Beside them `boxes`, whose rows `foundation.maps` tells.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from peftbench.data.boxes import boxes_problem, has_area
from peftbench.foundation.maps import BOXES, PARTS, UNKNOWN

FLOATS = ("depth", "normals")
NUMBERED = ("class_map", "human_parts")
_SHOWN = 5


def map_dtype(name: str) -> np.dtype[np.generic]:
    """The type in which a map of this name is kept."""
    return np.dtype(np.float32 if name in (*FLOATS, BOXES) else np.uint8)


def known(name: str, values: np.ndarray) -> np.ndarray:
    """Where a map says something: bool [height, width]."""
    if name == "normals":
        found: np.ndarray = np.isfinite(values).all(axis=-3)
        return found
    return np.isfinite(values) if name in FLOATS else values != UNKNOWN


def map_problem(name: str, values: np.ndarray, num_classes: int) -> str:
    """What is wrong with the numbers of a map, or nothing."""
    if name == BOXES:
        return boxes_problem(values, num_classes)
    if name == "normals":
        length = np.linalg.norm(values, axis=0)[known(name, values)]
        return "" if np.allclose(length, 1, atol=1e-2) else "its normals are not all of length 1"
    if name in FLOATS:
        return ""
    most = {"class_map": num_classes, "human_parts": len(PARTS)}.get(name, 2)
    wrong = [int(value) for value in np.unique(values) if value >= most and value != UNKNOWN]
    if not wrong:
        return ""
    shown = ", ".join(map(str, wrong[:_SHOWN])) + (", ..." if len(wrong) > _SHOWN else "")
    return f"its {name} holds {shown}; it takes 0 to {most - 1}, and {UNKNOWN} where nothing is known"


def classes_in(name: str, values: np.ndarray) -> frozenset[int]:
    """The numbers of the classes that a map shows, where it is one of classes."""
    if name == BOXES:
        return frozenset(values[has_area(values), 4].astype(int).tolist())
    return frozenset(np.unique(values).tolist()) - {UNKNOWN} if name == "class_map" else frozenset()


def plain_numbers() -> np.ndarray:
    """What the numbers of a mask mean where each is its own class: uint8 [256]."""
    return np.arange(256).astype(np.uint8)


def numbers_from_one(num_classes: int) -> np.ndarray:
    """The same where 0 is unknown and classes begin at 1; numbers behind the last class stay, and are refused."""
    numbers = plain_numbers()
    numbers[1 : num_classes + 1], numbers[0] = np.arange(num_classes), UNKNOWN
    return numbers


def class_colours(count: int) -> np.ndarray:
    """The colours in which Pascal VOC draws classes, uint8 [count, 3]: each bit of a class number moves one channel."""
    colours = np.zeros((count, 3), np.uint8)
    for number in range(count):
        rest = number
        for shift in range(7, -1, -1):
            for channel in range(3):
                colours[number, channel] |= (rest >> channel & 1) << shift
            rest >>= 3
    return colours


def coloured(name: str, values: np.ndarray, limits: tuple[float, float] = (0.0, 1.0)) -> np.ndarray:
    """A map as a picture, uint8 [height, width, 3]; unknown pixels are white.

    Classes and parts in Pascal VOC's colours, depth from light (near, `limits[0]`) to dark, normals with x, y, z as
    red, green, blue.
    """
    if name in NUMBERED:
        picture = class_colours(256)[values]
    elif name == "normals":
        picture = np.rint(127.5 * (np.nan_to_num(values).transpose(1, 2, 0) + 1)).astype(np.uint8)
    else:
        # near is light; an edge is light as well
        dark, light = limits[::-1] if name == "depth" else (0.0, 1.0)
        share = np.clip((np.nan_to_num(values.astype(np.float32)) - dark) / ((light - dark) or 1.0), 0, 1)
        picture = np.repeat(np.rint(220 * share).astype(np.uint8)[..., None], 3, axis=-1)
    return np.where(known(name, values)[..., None], picture, np.uint8(255))


def depth_limits(maps: Sequence[np.ndarray]) -> tuple[float, float]:
    """Nearest and farthest of several depth maps, for one scale of grey."""
    values = np.concatenate([values[np.isfinite(values)] for values in maps])
    return (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
