"""Boxes of an image as rows of an array (`foundation.maps`): gathered, checked, and moved with it as it is resized."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

COLUMNS = 6


def padded(rows: Sequence[Sequence[float]] | np.ndarray, most: int) -> np.ndarray:
    """float32 [most, 6], the rows first and zeros behind them."""
    boxes = np.zeros((most, COLUMNS), np.float32)
    boxes[: len(rows)] = np.reshape(rows, (-1, COLUMNS))
    return boxes


def has_area(boxes: np.ndarray) -> np.ndarray:
    """Which rows [..., 6] hold a box: bool [...]."""
    found: np.ndarray = (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
    return found


def boxes_problem(boxes: np.ndarray, num_classes: int, size: tuple[int, int] | None = None) -> str:
    """What is wrong with the boxes of an image, of `size` (width, height) if given, or nothing."""
    if not np.isfinite(boxes).all():
        return "its boxes hold what is no number"
    classes = boxes[has_area(boxes), 4]
    if len(wrong := classes[(classes < 0) | (classes >= num_classes)]):
        return f"a box has class {wrong[0]:g}; there are 0 to {num_classes - 1}"
    if size is not None and ((boxes[:, :4] < 0) | (boxes[:, :4] > [*size, *size])).any():
        return f"a box reaches over the border of the image of {size[0]} x {size[1]} pixels"
    return ""


def shifted(boxes: np.ndarray, scale: tuple[float, float], origin: tuple[float, float], size: int) -> np.ndarray:
    """Boxes of a picture that is scaled by (across, down) and cut at `origin` (left, top) to a square of `size` px.

    What reaches over the border is cut off; rows of which nothing is left become zeros.
    """
    moved = boxes.astype(np.float64)
    moved[:, :4] = np.clip(moved[:, :4] * [*scale, *scale] - [*origin, *origin], 0, size)
    moved[~has_area(moved)] = 0
    return moved.astype(np.float32)
