"""Chosen frames of a video file or of a folder of frames, as pictures in mode RGB or L."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.data.pixels.decode import decode_image
from peftbench.foundation.errors import BadInput, MissingInput

if TYPE_CHECKING:
    from PIL.Image import Image

Choose = Callable[[int], Sequence[int]]
_NO_DECODER = (
    "video files need PyAV, which is not installed: pip install 'peftbench[video]'; folders of frames need nothing "
    "(docs/video.md)"
)


def decoder() -> Any:
    """PyAV. Raises `MissingInput` where it is not installed."""
    try:
        import av
    except ImportError as error:
        raise MissingInput(_NO_DECODER) from error
    return av


def video_frames(path: Path, choose: Choose) -> list[Image]:
    """The frames `choose(num_frames)` of a video file, in order of presentation.

    Raises `MissingInput` without a decoder, `BadInput` naming a file that is not there, empty, corrupt or cut short, or
    of which less than half of what its header promises can be decoded.
    """
    av = decoder()
    if not path.is_file():
        raise BadInput(f"{path}: there is no such video")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise BadInput(f"{path}: the file holds no video stream")
            frames = [frame for frame in container.decode(video=0) if not frame.is_corrupt]
            missing = _missing(container, frames)
    except (av.error.FFmpegError, OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"{path}: the video cannot be decoded ({reason}); it is corrupt or cut short") from error
    if not frames:
        raise BadInput(f"{path}: the video has no frame")
    if missing:
        raise BadInput(f"{path}: the video is cut short, its header promises {missing}; copy it again")
    if all(frame.pts is not None for frame in frames):
        frames.sort(key=lambda frame: frame.pts)
    chosen = choose(len(frames))
    made = {index: frames[index].to_image() for index in set(chosen)}
    return [made[index] for index in chosen]


def _missing(container: Any, frames: Sequence[Any]) -> str:
    """What the header promises, in words, where less than half of it is there; else empty.

    Files of most kinds can be read up to where they break off. Their headers state a length, and AVI's, whose length
    is of what there is, a number of frames.
    """
    stream = container.streams.video[0]
    if container.format.name == "avi":
        return f"{stream.frames} frames and {len(frames)} are there" if 2 * len(frames) < stream.frames else ""
    times = [frame.time for frame in frames if frame.time is not None]
    if not times or not container.duration or not stream.average_rate:
        return ""
    promised = container.duration / 1_000_000
    there = float(max(times) - min(times) + 1 / stream.average_rate)
    return f"{promised:.1f} seconds and {there:.1f} are there" if 2 * there < promised else ""


def folder_frames(folder: Path, names: Callable[[int], str], num_frames: int, choose: Choose) -> list[Image]:
    """The frames `choose(num_frames)` of a folder whose frame `i` is the file `names(i)`. Raises `BadInput`."""
    chosen = choose(num_frames)
    made = {index: _picture(folder / names(index)) for index in set(chosen)}
    return [made[index] for index in chosen]


def _picture(path: Path) -> Image:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: the frame cannot be read ({error.strerror})") from error
    return decode_image(data, str(path))
