"""Water or mud on the lens (Hendrycks & Dietterich, ICLR 2019), with what it takes of OpenCV's operations on pictures.

All are as OpenCV gives them on one channel of 8 bits, [height, width].
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Pixels = NDArray[np.uint8]
Floats = NDArray[Any]

WATER = np.array([175, 238, 238], np.float32) / np.float32(255)
MUD = np.array([63, 42, 20], np.float32) / np.float32(255)
# lengths of a step to a neighbour, to a diagonal one, and by a knight's move, in 1/65536 (OpenCV's 5 x 5 mask)
STEPS = ((65536, ((0, 1), (1, 0))), (91750, ((1, 1), (1, -1))), (143976, ((1, 2), (2, 1), (1, -2), (2, -1))))
FARTHEST = 20
EMBOSS = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])


def spatter(x: Floats, strength: Any, generator: np.random.Generator) -> Floats:
    """Drops where a smooth random field is high: water that brightens near their edges, or mud that covers."""
    mean, deviation, smoothness, least, last, is_mud = strength
    x = x.astype(np.float32)
    field = ndimage.gaussian_filter(generator.normal(mean, deviation, x.shape[:2]), smoothness, mode="nearest")
    field[field < least] = 0
    if is_mud:
        cover = ndimage.gaussian_filter((field > least).astype(np.float32), last, mode="nearest")
        cover[cover < 0.8] = 0
        return x * (1 - cover[..., None]) + MUD * cover[..., None]
    depth = (field * 255).astype(np.uint8)
    light = depth * _near_edges(depth)
    if light.max() == 0:
        return x
    return x + (light / light.max() * np.float32(last))[..., None] * WATER


def _near_edges(depth: Pixels) -> NDArray[np.float32]:
    """How bright water is: embossed distances to the edges of the drops, up to `FARTHEST`, spread over all values."""
    distance = np.minimum(distances(edges(depth, 50, 150)), np.float32(FARTHEST))
    flat = equalised(_mean(distance).astype(np.uint8))
    embossed = np.clip(ndimage.correlate(flat.astype(int), EMBOSS, mode="mirror"), 0, 255)
    return np.rint(_mean(embossed)).astype(np.float32)


def _mean(x: NDArray[Any]) -> NDArray[np.float32]:
    """Means over 3 x 3 pixels; beyond the border the picture is mirrored without its outermost line."""
    sums = ndimage.correlate(x.astype(np.float64), np.ones((3, 3)), mode="mirror")
    return (sums * (1 / 9)).astype(np.float32)


def edges(picture: Pixels, low: int, high: int) -> NDArray[np.bool_]:
    """Canny's edges with Sobel slopes of 3 x 3 pixels, whose lengths are |dx| + |dy|."""
    padded = np.pad(picture.astype(np.int64), 1, mode="edge")
    smooth, slope = np.array([1, 2, 1]), np.array([-1, 0, 1])
    dx = ndimage.correlate1d(ndimage.correlate1d(padded, smooth, axis=0), slope, axis=1)[1:-1, 1:-1]
    dy = ndimage.correlate1d(ndimage.correlate1d(padded, smooth, axis=1), slope, axis=0)[1:-1, 1:-1]
    length = np.abs(dx) + np.abs(dy)
    around = np.pad(length, 1)
    height, width = picture.shape

    def at(down: int, right: int) -> NDArray[Any]:
        return around[1 + down : 1 + down + height, 1 + right : 1 + right + width]

    # tan 22.5 in 1/32768
    flat, tall = np.abs(dx) * 13573, np.abs(dy) << 15
    level, upright = tall < flat, tall > flat + (np.abs(dx) << 16)
    falling = (dx ^ dy) >= 0
    along_row = (length > at(0, -1)) & (length >= at(0, 1))
    along_column = (length > at(-1, 0)) & (length >= at(1, 0))
    diagonal = np.where(
        falling, (length > at(-1, -1)) & (length > at(1, 1)), (length > at(-1, 1)) & (length > at(1, -1))
    )
    kept = (length > low) & np.where(level, along_row, np.where(upright, along_column, diagonal))
    labels, number = ndimage.label(kept, structure=np.ones((3, 3)))
    strong = np.zeros(number + 1, bool)
    strong[labels[kept & (length > high)]] = True
    strong[0] = False
    return strong[labels]


def distances(marked: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Length of the shortest way to a marked pixel by the moves of `STEPS`, right up to `FARTHEST` pixels."""
    most = np.int32(1 << 30)
    found = np.where(marked, np.int32(0), most)
    # every move goes one pixel on at least
    for _ in range(FARTHEST + 1):
        before = found
        padded = np.pad(found, 2, constant_values=most)
        for cost, moves in STEPS:
            for down, right in moves:
                for sign in (1, -1):
                    top, left = 2 + sign * down, 2 + sign * right
                    found = np.minimum(found, padded[top : top + marked.shape[0], left : left + marked.shape[1]] + cost)
        if np.array_equal(found, before):
            break
    return (found / 65536).astype(np.float32)


def equalised(picture: Pixels) -> Pixels:
    """Values spread so that each share of the pixels has its share of 0..255; the lowest becomes 0."""
    counts = np.bincount(picture.ravel(), minlength=256)
    lowest = int(np.flatnonzero(counts)[0])
    rest = picture.size - counts[lowest]
    if rest == 0:
        return picture
    scale = np.float32(255) / np.float32(rest)
    counts[: lowest + 1] = 0
    table = np.clip(np.rint(np.cumsum(counts).astype(np.float32) * scale), 0, 255).astype(np.uint8)
    return table[picture]
