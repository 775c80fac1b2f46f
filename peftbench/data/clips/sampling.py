"""Which frames of a video make a clip, as ST-Adapter's and AIM's code take them (both after PySlowFast and TSN)."""

from __future__ import annotations

from collections.abc import Sequence

SAMPLINGS = ("uniform", "dense")


def uniform_frames(num_frames: int, frames: int, draws: Sequence[float] | None = None) -> list[int]:
    """One frame out of each of `frames` equal segments of a video of `num_frames`.

    The middle of each segment, or with `draws` (one a segment, in [0, 1)) any of it, both ends included; neighbours
    share an end, so that a frame can be taken twice.
    """
    segment = (num_frames - 1) / frames
    bounds = [(round(segment * i), round(segment * (i + 1))) for i in range(frames)]
    if draws is None:
        return [(first + last) // 2 for first, last in bounds]
    return [first + int(draw * (last - first + 1)) for (first, last), draw in zip(bounds, draws, strict=True)]


def dense_frames(num_frames: int, frames: int, stride: int, view: int = 0, views: int = 1) -> list[int]:
    """Every `stride`-th frame of one of `views` evenly spread stretches; beyond the end the last frame stays."""
    rest = max(num_frames - _length(frames, stride), 0)
    start = rest // 2 if views == 1 else round(rest / (views - 1) * view)
    return [min(start + i * stride, num_frames - 1) for i in range(frames)]


def drawn_dense_frames(num_frames: int, frames: int, stride: int, draw: float) -> list[int]:
    """Every `stride`-th frame from a random start (`draw` in [0, 1)), for training.

    A video that is too short is taken from its beginning, and the last frame of the stride within it stays.
    """
    if _length(frames, stride) >= num_frames:
        last = (num_frames - 1) // stride * stride
        return [min(i * stride, last) for i in range(frames)]
    start = int(draw * (num_frames - stride * (frames - 1)))
    return [start + i * stride for i in range(frames)]


def _length(frames: int, stride: int) -> int:
    return (frames - 1) * stride + 1
