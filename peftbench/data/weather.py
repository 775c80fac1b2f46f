"""Corruptions that move pixels or lay something over them: glass, motion, snow, fog, elastic, spatter.

Of the same source as `corruptions`, whose strengths they take. Where the authors call ImageMagick, OpenCV or
scikit-image, the same is computed here: drops on the lens in `spatter`. x: float64 [height, width, 3] in 0..1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from peftbench.data.zoom import zoomed

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
Generator = np.random.Generator


def glass_blur(image: Pixels, strength: Any, generator: Generator) -> Pixels:
    """Pixels take the value of one up to `reach` away, one after the other from the last, between two small blurs.

    The authors mean to swap the two; their assignment copies one onto the other, and so does this.
    """
    deviation, reach, rounds = strength
    softened = floored(_blurred(image / 255.0, deviation))
    height, width = image.shape[:2]
    rows, columns = np.arange(height - reach, reach, -1), np.arange(width - reach, reach, -1)
    targets = (rows[:, None] * width + columns).ravel()
    places = list(range(height * width))
    for _ in range(rounds):
        moves = generator.integers(-reach, reach, size=(len(targets), 2))
        sources = targets + moves[:, 1] * width + moves[:, 0]
        for target, source in zip(targets.tolist(), sources.tolist(), strict=True):
            places[target] = places[source]
    shuffled = softened.reshape(-1, 3)[places].reshape(image.shape)
    return floored(_blurred(shuffled / 255.0, deviation))


def floored(values: Floats) -> Pixels:
    """Values of 0..1 in 8 bits, rounded down as in the authors' files."""
    return (np.clip(values, 0, 1) * 255).astype(np.uint8)


def _blurred(x: Floats, deviation: float) -> Floats:
    blurred: Floats = ndimage.gaussian_filter(x, (deviation, deviation, 0), mode="nearest")
    return blurred


def motion_blur(image: Pixels, strength: Any, generator: Generator) -> Pixels:
    radius, deviation = strength
    return in_motion(image, radius, deviation, generator.uniform(-45, 45))


def in_motion(image: Pixels, radius: int, deviation: float, angle: float) -> Pixels:
    """A mean over 2 * radius + 1 pixels ahead in the direction of `angle`, by half of a Gaussian (ImageMagick).

    Pixels are as near to the line as they can be; beyond the border its pixels go on. [height, width, ...].
    """
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * deviation**2))
    weights /= weights.sum()
    turn = math.radians(angle)
    across, down = (np.ceil(steps * part - 0.5).astype(int) for part in (math.cos(turn), math.sin(turn)))
    rows, columns = np.arange(image.shape[0]), np.arange(image.shape[1])
    total = np.zeros(image.shape)
    for weight, right, below in zip(weights, across, down, strict=True):
        shifted = image[np.clip(rows + below, 0, len(rows) - 1)][:, np.clip(columns + right, 0, len(columns) - 1)]
        total += weight * shifted
    # ImageMagick keeps 16 bits and rounds down where it writes 8
    return (np.floor(257 * total + 0.5) // 257).astype(np.uint8)


def snow(x: Floats, strength: Any, generator: Generator) -> Floats:
    """Bright grains, enlarged and blurred by their fall, over a whitened image; once more turned by 180 degrees."""
    mean, deviation, enlarged, least, radius, fall, kept = strength
    grains = zoomed(generator.normal(mean, deviation, x.shape[:2])[..., None], enlarged)[..., 0]
    grains[grains < least] = 0
    angle = generator.uniform(-135, -45)
    layer = in_motion(floored(grains), radius, fall, angle)[..., None] / 255.0
    x = x.astype(np.float32)
    grey = (x @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    whitened = kept * x + (1 - kept) * np.maximum(x, grey * 1.5 + 0.5)
    covered: Floats = whitened + layer + np.rot90(layer, 2)
    return covered


def fog(x: Floats, strength: Any, generator: Generator) -> Floats:
    thickness, decay = strength
    most = x.max()
    clouds = plasma(max(x.shape[:2]), decay, generator)[: x.shape[0], : x.shape[1], None]
    foggy: Floats = (x + thickness * clouds) * most / (most + thickness)
    return foggy


def plasma(size: int, decay: float, generator: Generator) -> Floats:
    """Clouds in 0..1 that repeat at their borders, [side, side] with `side` the power of two from `size` on.

    Squares, then diamonds: a point is the mean of its four nearest and a draw whose range falls by `decay` squared
    from one step to the next finer one.
    """
    side = 1 << (size - 1).bit_length()
    field = np.zeros((side, side))
    step, spread = side, 100.0

    def around(total: Floats) -> Floats:
        return total / 4 + spread * generator.uniform(-spread, spread, total.shape)

    while step >= 2:
        half = step // 2
        corners = field[::step, ::step]
        beside = corners + np.roll(corners, -1, axis=0)
        field[half::step, half::step] = around(beside + np.roll(beside, -1, axis=1))
        centres = field[half::step, half::step]
        above = centres + np.roll(centres, 1, axis=0) + corners + np.roll(corners, -1, axis=1)
        field[::step, half::step] = around(above)
        left = centres + np.roll(centres, 1, axis=1) + corners + np.roll(corners, -1, axis=0)
        field[half::step, ::step] = around(left)
        step, spread = half, spread / decay
    field -= field.min()
    return field / field.max()


def elastic_transform(x: Floats, strength: Any, generator: Generator) -> Floats:
    """A random affine map, then a smooth random displacement of every pixel."""
    amount, smoothness, corners = strength
    shape = x.shape[:2]
    middle, reach = np.array(shape, np.float32) // 2, min(shape) // 3
    before = np.stack([middle + reach, np.array([middle[0] + reach, middle[1] - reach]), middle - reach])
    before = before.astype(np.float32)
    after = before + generator.uniform(-corners, corners, before.shape).astype(np.float32)
    moved = affinely_moved(x.astype(np.float32), before, after)
    across, down = (
        ndimage.gaussian_filter(generator.uniform(-1, 1, shape), smoothness, mode="reflect", truncate=3) * amount
        for _ in range(2)
    )
    rows, columns = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    places = np.stack([rows + down.astype(np.float32), columns + across.astype(np.float32)])
    return np.stack(
        [ndimage.map_coordinates(moved[..., i], places, order=1, mode="reflect") for i in range(3)], axis=-1
    )


def affinely_moved(x: NDArray[np.float32], before: NDArray[Any], after: NDArray[Any]) -> NDArray[np.float32]:
    """The image moved so that three points (column, row) `before` come to lie at `after`, as OpenCV's warpAffine.

    Places are rounded to 1/32 of a pixel; beyond the border the image is mirrored without its outermost line.
    """
    points = np.concatenate([after.astype(np.float64), np.ones((3, 1))], axis=1)
    back = np.linalg.solve(points, before.astype(np.float64)).T
    rows, columns = np.arange(x.shape[0]), np.arange(x.shape[1])
    left, top = (_fixed(row, rows, columns) for row in back)
    below_share, right_share = ((place & 31) / np.float32(32) for place in (top, left))
    top, left = top >> 5, left >> 5
    moved = np.zeros_like(x)
    for down, row_share in ((0, 1 - below_share), (1, below_share)):
        for across, column_share in ((0, 1 - right_share), (1, right_share)):
            near = x[mirrored(top + down, len(rows)), mirrored(left + across, len(columns))]
            moved += near * (row_share * column_share)[..., None]
    return moved


def _fixed(row: Floats, rows: NDArray[Any], columns: NDArray[Any]) -> NDArray[Any]:
    """row . (column, row, 1) for every pixel in 1/32, by way of 1/1024: int [rows, columns]."""
    start, along = np.rint((row[1] * rows + row[2]) * 1024), np.rint(row[0] * columns * 1024)
    return (start.astype(int)[:, None] + 16 + along.astype(int)) >> 5


def mirrored(places: NDArray[Any], size: int) -> NDArray[Any]:
    """Places beyond 0..size - 1 mirrored at the outermost ones."""
    period = max(2 * (size - 1), 1)
    places = np.abs(places) % period
    return np.minimum(places, period - places) if size > 1 else np.zeros_like(places)
