"""Decoded and resized pixels, made once per (content, transform) and memory-mapped from then on."""

from __future__ import annotations

import errno
import hashlib
import math
import shutil
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from peftbench.data.base import Source
from peftbench.data.maps import map_dtype, map_problem
from peftbench.data.pixels.changes import Changes
from peftbench.data.pixels.entry import CACHE_VERSION, Entry, libraries
from peftbench.data.pixels.stream import UNCHANGED, StreamedImages, sample_pixels, sample_shape
from peftbench.data.pixels.transform import ImageTransform
from peftbench.data.raw import RawSplit
from peftbench.data.ready import OnDemand, Split, View
from peftbench.data.texted import TextedSplit
from peftbench.foundation.cores import available_cores
from peftbench.foundation.errors import BadInput, ConfigError, PeftbenchError
from peftbench.foundation.identity import canonical
from peftbench.foundation.location import default_cache_dir
from peftbench.foundation.maps import BOXES
from peftbench.foundation.progress import Bar

__all__ = ["CACHE_VERSION", "default_cache_dir", "load_split"]

_CHUNK = 256
WHOLE = View()
_MAPS_STAY = (
    "pictures that are cut or changed while they are read leave their maps behind; set train.augment=scale_crop_flip "
    "or flip, train.rand_ops=0 and train.draw_frames=false"
)
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
_NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOLCK, errno.ENOTSUP, errno.EIO)


def load_split(
    source: Source,
    split: str,
    transform: ImageTransform,
    cache_dir: Path,
    progress: Bar | None = None,
    stream_above: int | None = None,
    targets: Collection[str] | None = None,
    view: View = WHOLE,
    changes: Changes = UNCHANGED,
) -> Split:
    """The split's pixels from the cache, decoding and resizing them first when they are not there.

    `view` is what of each sample is shown, `changes` what is done to images that are not stored.
    Of a split with maps those named in `targets` come with it, or all. A split of more than `stream_above` decoded
    bytes is not stored: its images are decoded whenever they are read.

    `progress(title, num_images)` gives a context manager around a function told how many images were just done
    (a negative number when decoding starts over because a grey split turned out to hold colour).
    Raises `BadInput` for a split the source does not have, an image that cannot be decoded and a map that is wrong,
    `ConfigError` for maps beside images that are read anew (`stream_above` below 0),
    `PeftbenchError` when the cache folder is full or closed.
    """
    if split not in source.splits:
        raise BadInput(
            f"this dataset has no split {split}, only {', '.join(source.splits)}; "
            "choose a protocol that uses these (protocol=..., protocol.train_split, protocol.val_split)"
        )
    raw = source.split(split).stretch(view.number, view.views)
    transform = replace(transform, along=view.place, floors=raw.frames > 1)
    content = raw.content_digest()
    labels = raw.labels.astype(np.int64)
    labels.flags.writeable = False
    texted = raw if isinstance(raw, TextedSplit) else None
    words = b"" if texted is None else texted.texts_bytes()
    digest = hashlib.sha256(content.encode() + labels.tobytes() + words).hexdigest()
    streamed = StreamedImages(raw, transform, changes)
    if stream_above is not None and streamed.nbytes > stream_above:
        if raw.maps and stream_above < 0:
            raise ConfigError([_MAPS_STAY])
        if raw.maps:
            raise PeftbenchError(f"{split} has maps and is too large to keep decoded; raise runtime.stream_above_gb")
        images: np.ndarray | OnDemand = streamed
    else:
        about = {"split": split, "transform": transform.key()}
        images = _stored(cache_dir, raw, content, transform, about, progress)
    if texted is not None:
        return Split({"image": images}, texted.targets, digest, texted.texts)
    if not raw.maps:
        return Split.of_images(images, labels, digest)
    maps = {}
    for name in raw.maps if targets is None else [name for name in raw.maps if name in targets]:
        made = _Map(name, source.num_classes)
        values = _stored(cache_dir, raw, content, transform, about | {"map": name}, progress, made)
        maps[name] = values.view(map_dtype(name))[..., 0]
    return Split({"image": images}, maps, digest)


@dataclass(frozen=True)
class _Map:
    """The map of each image that is wanted in place of the image."""

    name: str
    num_classes: int

    def of(self, raw: RawSplit, index: int, transform: ImageTransform) -> np.ndarray:
        """The bytes of one map, uint8 [(channels,) size, size, bytes], or of boxes. Raises `BadInput`."""
        values = raw.read_map(self.name, index)
        if problem := map_problem(self.name, values, self.num_classes):
            raise BadInput(f"{raw.describe(index)}: {problem}")
        if self.name == BOXES:
            resized = transform.apply_boxes(values, *raw.size_of(index))
        else:
            resized = transform.apply_map(values).astype(map_dtype(self.name))
        return np.ascontiguousarray(resized)[..., None].view(np.uint8)


def _stored(
    cache_dir: Path,
    raw: RawSplit,
    content: str,
    transform: ImageTransform,
    about: dict[str, str],
    progress: Bar | None,
    wanted: _Map | None = None,
) -> np.ndarray:
    """Images, or one map of each, from the cache or made now: uint8 [num_images, ..., size, size, bytes]."""
    split = about["split"]
    entry = Entry(cache_dir / "images", _key(content, transform, wanted.name if wanted else None), about)
    images = entry.read()
    if images is None:
        num_bytes = len(raw) * math.prod(sample_shape(raw, transform)) * 3
        with _disk_errors(entry.folder, num_bytes), entry.lock():
            images = entry.read()  # another process may have built it while this one waited
            if images is None:
                watch = progress(f"decoding {split}", len(raw)) if progress else nullcontext(lambda done: None)
                with watch as step:
                    images = _build(entry, raw, transform, step, wanted)
    return images


def _key(content: str, transform: ImageTransform, map_name: str | None = None) -> str:
    # Another Pillow may make other pixels. Labels are absent, so that tasks on the same images share an entry.
    parts = [CACHE_VERSION, content, transform.key(), *libraries().values(), *([map_name] if map_name else [])]
    return hashlib.sha256(canonical(parts).encode()).hexdigest()


def _counted(chunks: Iterator[np.ndarray], step: Callable[[int], None]) -> Iterator[np.ndarray]:
    for chunk in chunks:
        yield chunk
        step(len(chunk))


class _ColourFound(Exception):
    """A split that began grey has a colour image."""


def _build(
    entry: Entry, raw: RawSplit, transform: ImageTransform, step: Callable[[int], None], wanted: _Map | None = None
) -> np.ndarray:
    if wanted is not None:
        one = wanted.of(raw, 0, transform)
        made = (wanted.of(raw, index, transform)[None] if index else one[None] for index in range(len(raw)))
        return entry.write(_counted(made, step), (len(raw), *one.shape))
    # Grey sets (dSprites, smallNORB) take a third of the bytes, so one channel is tried first.
    first = _to_channels(sample_pixels(raw, 0, transform), 1)
    for channels in (3,) if first is None else (1, 3):
        shape = (len(raw), *sample_shape(raw, transform), channels)
        _check_space(entry.folder, int(np.prod(shape)))
        try:
            return entry.write(_chunks(raw, transform, channels, step), shape)
        except _ColourFound:
            continue
    raise AssertionError("three channels hold every image")


def _chunks(
    raw: RawSplit, transform: ImageTransform, channels: int, step: Callable[[int], None]
) -> Iterator[np.ndarray]:
    """Transformed images, uint8 [num, (frames,) size, size, channels] a chunk, in order. Pillow frees the GIL."""
    done = 0
    with ThreadPoolExecutor(max_workers=available_cores()) as pool:
        for start in range(0, len(raw), _CHUNK):
            indices = range(start, min(start + _CHUNK, len(raw)))
            images = list(pool.map(lambda i: _to_channels(sample_pixels(raw, i, transform), channels), indices))
            if any(image is None for image in images):
                step(-done)
                raise _ColourFound
            yield np.stack(images)  # type: ignore[arg-type]
            step(len(images))
            done += len(images)


def _to_channels(image: np.ndarray, channels: int) -> np.ndarray | None:
    """`image` [..., size, size, 1 or 3] with that many channels; None when colour would be lost."""
    if image.shape[-1] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=-1)
    return image[..., :1] if (image == image[..., :1]).all() else None


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise PeftbenchError(
            f"not enough disk space for the image cache {folder}: "
            f"{needed / 1e6:,.1f} MB needed, {free / 1e6:,.1f} MB free; "
            "free some space or set PEFTBENCH_CACHE to a folder on a larger disk"
        )


@contextmanager
def _disk_errors(folder: Path, num_bytes: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL_DISK:
            raise PeftbenchError(
                f"the disk filled up while writing the image cache {folder}, nothing half-written was kept; "
                f"up to {num_bytes / 1e6:,.1f} MB needed: free some space or "
                "set PEFTBENCH_CACHE to a folder on a larger disk"
            ) from error
        if error.errno in _NO_ACCESS:
            raise PeftbenchError(
                f"the image cache {folder} cannot be used ({error.strerror}); "
                "set PEFTBENCH_CACHE to a folder on a local disk that can be written"
            ) from error
        raise
