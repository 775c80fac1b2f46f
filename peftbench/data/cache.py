"""Decoded and resized pixels, made once per (content, transform) and memory-mapped from then on.

One entry is `<key>.bin` (raw uint8) and `<key>.json` (shape and checksum, written last): an entry without a matching
header does not exist. A lock file per key lets one process build while others wait; the lock dies with its process.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

import numpy as np

from peftbench.data.base import ImageSplit, RawSplit, Source
from peftbench.data.digests import hash_file
from peftbench.data.location import default_cache_dir
from peftbench.data.transform import ImageTransform
from peftbench.errors import BadInput, PeftbenchError
from peftbench.identity import canonical

__all__ = ["CACHE_VERSION", "default_cache_dir", "load_split"]

CACHE_VERSION = 1
_CHUNK = 256
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
_NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOLCK, errno.ENOTSUP, errno.EIO)

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


def load_split(
    source: Source, split: str, transform: ImageTransform, cache_dir: Path, progress: Progress | None = None
) -> ImageSplit:
    """The split's pixels from the cache, decoding and resizing them first when they are not there.

    `progress(title, num_images)` gives a context manager around a function told how many images were just done
    (a negative number when decoding starts over because a grey split turned out to hold colour).
    Raises `BadInput` for a split the source does not have and for an image that cannot be decoded, `PeftbenchError`
    when the cache folder is full or closed.
    """
    if split not in source.splits:
        raise BadInput(
            f"this dataset has no split {split}, only {', '.join(source.splits)}; "
            "choose a protocol that uses these (protocol=..., protocol.train_split, protocol.val_split)"
        )
    raw = source.split(split)
    content = raw.content_digest()
    entry = _Entry(cache_dir / "images", _key(content, transform))
    images = entry.read()
    if images is None:
        with _disk_errors(entry.folder), entry.lock():
            images = entry.read()  # another process may have built it while this one waited
            if images is None:
                watch = progress(f"decoding {split}", len(raw)) if progress else nullcontext(lambda done: None)
                with watch as step:
                    images = _build(entry, raw, transform, step)
    labels = raw.labels.astype(np.int64)
    labels.flags.writeable = False
    digest = hashlib.sha256(content.encode() + labels.tobytes()).hexdigest()
    return ImageSplit(images, labels, digest)


def _key(content: str, transform: ImageTransform) -> str:
    # Another Pillow may make other pixels. Labels are absent, so that tasks on the same images share an entry.
    import PIL

    parts = [CACHE_VERSION, content, transform.key(), PIL.__version__, np.__version__]
    return hashlib.sha256(canonical(parts).encode()).hexdigest()


class _Entry:
    """The files of one key."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        self.pixels = folder / f"{key}.bin"
        self.header = folder / f"{key}.json"
        self._lock_file = folder / f"{key}.lock"

    def read(self) -> np.ndarray | None:
        """The array, or None when it is absent, incomplete or not what its header says."""
        try:
            header = json.loads(self.header.read_text(encoding="utf-8"))
            shape, checksum = tuple(map(int, header["shape"])), str(header["sha256"])
            state = self.pixels.stat()
            if state.st_size != np.prod(shape) or not _verified(self.pixels, state.st_ino, state.st_mtime_ns, checksum):
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return np.memmap(self.pixels, dtype=np.uint8, mode="r", shape=shape)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Only one process at a time builds this entry. What killed builders left behind is removed on the way."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock_file.open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            for leftover in self.folder.glob("*.tmp"):
                _remove_abandoned(leftover, own_lock=self._lock_file)
            yield

    def write(self, chunks: Iterator[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        """Store `chunks` (uint8, together of `shape`) and return them memory-mapped. Call under `lock`."""
        checksum = hashlib.sha256()
        with _replacing(self.pixels) as file:
            for chunk in chunks:
                data = chunk.tobytes()
                checksum.update(data)
                file.write(data)
        header = canonical({"shape": list(shape), "sha256": checksum.hexdigest(), "version": CACHE_VERSION})
        with _replacing(self.header) as file:
            file.write(header.encode())
        return np.memmap(self.pixels, dtype=np.uint8, mode="r", shape=shape)


@functools.cache
def _verified(path: Path, inode: int, mtime_ns: int, checksum: str) -> bool:
    """Whether the file has this SHA-256; asked once per process for each state of the file."""
    return hash_file(path).hex() == checksum


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its name only once it is complete and on the disk."""
    partial = path.with_name(f"{path.name}.tmp")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _remove_abandoned(partial: Path, own_lock: Path) -> None:
    """Remove a temporary file unless another process holds the lock of its key, that is, is still writing it."""
    lock_file = partial.with_name(f"{partial.name.split('.')[0]}.lock")
    if lock_file == own_lock:
        partial.unlink(missing_ok=True)
        return
    with lock_file.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        partial.unlink(missing_ok=True)


class _ColourFound(Exception):
    """A split that began grey has a colour image."""


def _build(entry: _Entry, raw: RawSplit, transform: ImageTransform, step: Callable[[int], None]) -> np.ndarray:
    # Grey sets (dSprites, smallNORB) take a third of the bytes, so one channel is tried first.
    first = _to_channels(transform.apply(raw.read(0)), 1)
    for channels in (3,) if first is None else (1, 3):
        shape = (len(raw), transform.size, transform.size, channels)
        _check_space(entry.folder, int(np.prod(shape)))
        try:
            return entry.write(_chunks(raw, transform, channels, step), shape)
        except _ColourFound:
            continue
    raise AssertionError("three channels hold every image")


def _chunks(
    raw: RawSplit, transform: ImageTransform, channels: int, step: Callable[[int], None]
) -> Iterator[np.ndarray]:
    """Transformed images, uint8 [num_images, size, size, channels] a chunk, in order. Pillow works outside the GIL."""
    done = 0
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for start in range(0, len(raw), _CHUNK):
            indices = range(start, min(start + _CHUNK, len(raw)))
            images = list(pool.map(lambda i: _to_channels(transform.apply(raw.read(i)), channels), indices))
            if any(image is None for image in images):
                step(-done)
                raise _ColourFound
            yield np.stack(images)  # type: ignore[arg-type]
            step(len(images))
            done += len(images)


def _to_channels(image: np.ndarray, channels: int) -> np.ndarray | None:
    """`image` [size, size, 1 or 3] with that many channels; None when colour would be lost."""
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
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL_DISK:
            raise PeftbenchError(
                f"the disk filled up while writing the image cache {folder}, nothing half-written was kept; "
                "free some space or set PEFTBENCH_CACHE to a folder on a larger disk"
            ) from error
        if error.errno in _NO_ACCESS:
            raise PeftbenchError(
                f"the image cache {folder} cannot be used ({error.strerror}); "
                "set PEFTBENCH_CACHE to a folder on a local disk that can be written"
            ) from error
        raise
