"""Filled outlines and smooth grounds: what drawn images are made of."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

_SUPERSAMPLING = 4


def smooth_field(random: np.random.RandomState, size: int, colour: Callable[[], np.ndarray]) -> np.ndarray:
    """A smooth random field between two colours, drawn behind it: float64 [size, size, 3]."""
    coarse = random.uniform(0.0, 1.0, (5, 5))
    steps = np.linspace(0, 4, size)
    low = np.minimum(steps.astype(int), 3)
    weight = steps - low
    rows = coarse[low] * (1 - weight)[:, None] + coarse[low + 1] * weight[:, None]
    field = rows[:, low] * (1 - weight) + rows[:, low + 1] * weight
    first, second = colour(), colour()
    return np.asarray(first + field[..., None] * (second - first))


def _at(radius: float, degrees: float) -> tuple[float, float]:
    return radius * math.cos(math.radians(degrees)), radius * math.sin(math.radians(degrees))


# Outlines in units of the radius, pointing along +x; convex parts whose union is the shape.
_POLYGONS: dict[str, tuple[tuple[tuple[float, float], ...], ...]] = {
    "square": (((0.75, 0.75), (-0.75, 0.75), (-0.75, -0.75), (0.75, -0.75)),),
    "triangle": (((1.0, 0.0), (-0.5, 0.87), (-0.5, -0.87)),),
    "arrow": (
        ((1.0, 0.0), (0.1, 0.7), (0.1, -0.7)),
        ((0.15, 0.25), (-1.0, 0.25), (-1.0, -0.25), (0.15, -0.25)),
    ),
    "dart": (((1.0, 0.0), (-0.8, 0.6), (-0.4, 0.0)), ((1.0, 0.0), (-0.4, 0.0), (-0.8, -0.6))),
    "drop": (((1.0, 0.0), (-0.2, 0.5), (-0.2, -0.5)),),
    "cross": (
        ((0.95, 0.3), (-0.95, 0.3), (-0.95, -0.3), (0.95, -0.3)),
        ((0.3, 0.95), (-0.3, 0.95), (-0.3, -0.95), (0.3, -0.95)),
    ),
    "star": tuple(
        ((_at(1.0, tip), _at(0.45, tip + 36), _at(0.0, 0), _at(0.45, tip - 36))) for tip in range(0, 360, 72)
    ),
}
# Discs of a shape: centre along the pointing axis, outer and inner radius.
_DISCS = {"disc": (0.0, 0.9, 0.0), "ring": (0.0, 1.0, 0.5), "drop": (-0.4, 0.54, 0.0)}


def mask_of(
    kind: str, centre: tuple[float, float], radius: float, angle: float, size: int
) -> tuple[tuple[slice, slice], np.ndarray]:
    """The window of a square image around a shape and the share of each of its pixels the shape covers, 0 to 1.

    Angle 0 points right, 90 degrees up.
    """
    columns, rows = (slice(max(0, int(c - radius)), min(size, math.ceil(c + radius))) for c in centre)
    across = (_fine(columns) - centre[0]) / radius
    down = (_fine(rows) - centre[1])[:, None] / radius
    cosine, sine = math.cos(angle), math.sin(angle)
    x = across * cosine - down * sine
    y = -(across * sine + down * cosine)
    inside = np.zeros(x.shape, dtype=bool)
    for outline in _POLYGONS.get(kind, ()):
        inside |= _in_convex(x, y, outline)
    if kind in _DISCS:
        offset, outer, inner = _DISCS[kind]
        distance = np.hypot(x - offset, y)
        inside |= (distance <= outer) & (distance >= inner)
    fine = inside.reshape(len(down) // _SUPERSAMPLING, _SUPERSAMPLING, -1, _SUPERSAMPLING)
    return (rows, columns), fine.mean((1, 3))


def _fine(pixels: slice) -> np.ndarray:
    """Sample positions along one side of a window, `_SUPERSAMPLING` a pixel."""
    return (np.arange(pixels.start * _SUPERSAMPLING, pixels.stop * _SUPERSAMPLING) + 0.5) / _SUPERSAMPLING


def _in_convex(x: np.ndarray, y: np.ndarray, outline: tuple[tuple[float, float], ...]) -> np.ndarray:
    """Which points lie inside a convex outline given counter-clockwise."""
    inside = np.ones(x.shape, dtype=bool)
    for (x0, y0), (x1, y1) in zip(outline, outline[1:] + outline[:1], strict=True):
        inside &= (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) >= 0
    return inside
