"""Which frames of a video make a clip, as the loaders of the released code take them.

Each way of sampling has a choice for evaluation and a random one for training, of a file of `num_frames`.
"""

from __future__ import annotations

from collections.abc import Sequence


def uniform_frames(num_frames: int, frames: int, draws: Sequence[float] | None = None) -> list[int]:
    """One frame out of each of `frames` equal segments of a video of `num_frames` (ST-Adapter, AIM; PySlowFast's SSv2).

    The middle of each segment, or with `draws` (one a segment, in [0, 1)) any of it, both ends included; neighbours
    share an end, so that a frame can be taken twice.
    """
    segment = (num_frames - 1) / frames
    bounds = [(round(segment * i), round(segment * (i + 1))) for i in range(frames)]
    if draws is None:
        return [(first + last) // 2 for first, last in bounds]
    return [first + int(draw * (last - first + 1)) for (first, last), draw in zip(bounds, draws, strict=True)]


def dense_frames(num_frames: int, frames: int, stride: int, view: int = 0, views: int = 1) -> list[int]:
    """Every `stride`-th frame of one of `views` stretches, from the video's first frame to its last (ST-Adapter).

    Beyond the end the last frame stays; a single stretch lies in the middle.
    """
    rest = max(num_frames - _length(frames, stride), 0)
    start = rest // 2 if views == 1 else round(rest / (views - 1) * view)
    return [min(start + i * stride, num_frames - 1) for i in range(frames)]


def drawn_dense_frames(num_frames: int, frames: int, stride: int, draw: float) -> list[int]:
    """Every `stride`-th frame from a random start (`draw` in [0, 1)), for training (ST-Adapter).

    A video that is too short is taken from its beginning, and the last frame of the stride within it stays.
    """
    if _length(frames, stride) >= num_frames:
        last = (num_frames - 1) // stride * stride
        return [min(i * stride, last) for i in range(frames)]
    start = int(draw * (num_frames - stride * (frames - 1)))
    return [start + i * stride for i in range(frames)]


def mmaction_frames(num_frames: int, frames: int, stride: int, view: int = 0, views: int = 1) -> list[int]:
    """Every `stride`-th frame from the middle of one of `views` equal parts of all starts (mmaction2's `SampleFrames`,
    AIM).

    A stretch counts as `frames` whole strides. A video that is shorter is taken from its beginning, again and again.
    """
    starts = num_frames - frames * stride + 1
    part = starts / views
    start = int(part * view + part / 2) if starts > 0 else 0
    return [(start + i * stride) % num_frames for i in range(frames)]


def drawn_mmaction_frames(num_frames: int, frames: int, stride: int, draw: float) -> list[int]:
    """The same from a random start (`draw` in [0, 1)), for training."""
    start = int(draw * max(num_frames - frames * stride + 1, 0))
    return [(start + i * stride) % num_frames for i in range(frames)]


def videomae_frames(num_frames: int, frames: int, stride: int, view: int = 0, views: int = 1) -> list[int]:
    """Of every `stride`-th frame of the whole video, `frames` in a row, the first and the last view at its ends
    (`VideoClsDataset` of VideoMAE, AdaptFormer and PATT).

    Behind the end the last of them stays. A single view, which that code does not have, lies in the middle.
    """
    kept = list(range(0, num_frames, stride))
    kept += kept[-1:] * (frames - len(kept))
    rest = len(kept) - frames
    start = rest // 2 if views == 1 else int(view * (rest / (views - 1)))
    return kept[start : start + frames]


def drawn_videomae_frames(num_frames: int, frames: int, stride: int, draw: float) -> list[int]:
    """Every `stride`-th frame from a random start (`draw` in [0, 1)), for training (AdaptFormer and PATT).

    It steps on while that leads to a frame ahead of the video's last one, and else stays.
    """
    place = int(draw * max(num_frames - frames * stride + 1, 0))
    found = []
    for _ in range(frames):
        found.append(place)
        place += stride if place + stride < num_frames - 1 else 0
    return found


def _length(frames: int, stride: int) -> int:
    return (frames - 1) * stride + 1


# every stride-th frame of a stretch: for evaluation, for training
_OF_STRETCHES = {
    "dense": (dense_frames, drawn_dense_frames),
    "mmaction": (mmaction_frames, drawn_mmaction_frames),
    "videomae": (videomae_frames, drawn_videomae_frames),
}
SAMPLINGS = ("uniform", *_OF_STRETCHES)


def frames_for_evaluation(
    sampling: str, num_frames: int, frames: int, stride: int, view: int = 0, views: int = 1
) -> list[int]:
    """The frames of stretch `view` of `views`; `uniform` has but one and no stride."""
    if sampling == "uniform":
        return uniform_frames(num_frames, frames)
    choose, _ = _OF_STRETCHES[sampling]
    return choose(num_frames, frames, stride, view, views)


def frames_for_training(sampling: str, num_frames: int, frames: int, stride: int, draws: Sequence[float]) -> list[int]:
    """Frames as `draws` (one a frame, in [0, 1)) choose them."""
    if sampling == "uniform":
        return uniform_frames(num_frames, frames, draws)
    _, choose = _OF_STRETCHES[sampling]
    return choose(num_frames, frames, stride, draws[0])
