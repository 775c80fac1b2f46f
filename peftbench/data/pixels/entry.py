"""One stored array of the pixel cache: how it is written, found again, listed and thrown away.

An entry is `<key>.bin` (raw uint8) and `<key>.json` (shape and checksum, written last): an entry without a matching
header does not exist. A lock file per key lets one process build while others wait; the lock dies with its process.
What else lies in the folder is somebody's own: it is neither listed nor removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from peftbench.foundation.digests import hash_file
from peftbench.foundation.entries import entries_in
from peftbench.foundation.identity import canonical

CACHE_VERSION = 1

# the header first: without it the pixels do not count; the lock last, as it is held
_SUFFIXES = (".json", ".bin", ".json.tmp", ".bin.tmp")
_LOCK = ".lock"
_WRITTEN = re.compile(rf"([0-9a-f]{{64}})({'|'.join(map(re.escape, (*_SUFFIXES, _LOCK)))})")


def libraries() -> dict[str, str]:
    """The packages whose version can change decoded pixels."""
    import PIL

    return {"pillow": PIL.__version__, "numpy": np.__version__}


class Entry:
    """The files of one key. `about` is what a listing says of it; it goes into the header."""

    def __init__(self, folder: Path, key: str, about: dict[str, Any] | None = None) -> None:
        self.folder = folder
        self.about = about or {}
        self.pixels = folder / f"{key}.bin"
        self.header = folder / f"{key}.json"
        self._lock_file = folder / f"{key}{_LOCK}"

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
        self.about = header
        with contextlib.suppress(OSError):
            os.utime(self.header)  # the time of last use, for pruning
        return np.memmap(self.pixels, dtype=np.uint8, mode="r", shape=shape)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Only one process at a time builds this entry. What killed builders left behind is removed on the way."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self._lock_file):
            for key, suffixes in _written(self.folder).items():
                for suffix in (suffix for suffix in suffixes if suffix.endswith(".tmp")):
                    _remove_abandoned(self.folder / f"{key}{suffix}", own_lock=self._lock_file)
            yield

    def write(self, chunks: Iterator[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        """Store `chunks` (uint8, together of `shape`) and return them memory-mapped. Call under `lock`."""
        checksum = hashlib.sha256()
        with _replacing(self.pixels) as file:
            for chunk in chunks:
                data = chunk.tobytes()
                checksum.update(data)
                file.write(data)
        known = {"shape": list(shape), "sha256": checksum.hexdigest(), "version": CACHE_VERSION}
        with _replacing(self.header) as file:
            file.write(canonical(self.about | libraries() | known).encode())
        return np.memmap(self.pixels, dtype=np.uint8, mode="r", shape=shape)


@functools.cache
def _verified(path: Path, inode: int, mtime_ns: int, checksum: str) -> bool:
    """Whether the file has this SHA-256; asked once per process for each state of the file."""
    return hash_file(path).hex() == checksum


@contextmanager
def _locked(path: Path, blocking: bool = True) -> Iterator[bool]:
    """Hold the lock file's lock; yields whether it was had (always, when blocking)."""
    while True:
        with path.open("wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if blocking else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            # pruning removes lock files: a lock on a removed file would keep nobody out
            if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                yield True
                return


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
    lock_file = partial.with_name(f"{partial.name.split('.')[0]}{_LOCK}")
    if lock_file == own_lock:
        partial.unlink(missing_ok=True)
        return
    with _locked(lock_file, blocking=False) as had:
        if had:
            partial.unlink(missing_ok=True)


@dataclass(frozen=True)
class Listed:
    """What is stored under one key. `about` is empty when there is no readable header; `used` is a time stamp."""

    key: str
    about: dict[str, Any]
    num_bytes: int
    used: float

    @property
    def reachable(self) -> bool:
        """Whether these versions of the code and of its packages would still read it."""
        now = {**libraries(), "version": CACHE_VERSION}
        return bool(self.about) and all(self.about.get(name, value) == value for name, value in now.items())


def listed(folder: Path) -> list[Listed]:
    """Every entry under `folder`, most recently used first; leftovers of killed builders included."""
    entries = [
        _listed(folder, key, [folder / f"{key}{suffix}" for suffix in suffixes])
        for key, found in _written(folder).items()
        if (suffixes := found - {_LOCK})
    ]
    return sorted(entries, key=lambda entry: (-entry.used, entry.key))


def _written(folder: Path) -> dict[str, set[str]]:
    """Key -> the suffixes under which the cache has written files for it."""
    found: dict[str, set[str]] = {}
    for path in entries_in(folder):
        if (match := _WRITTEN.fullmatch(path.name)) and path.is_file():
            found.setdefault(match[1], set()).add(match[2])
    return found


def _listed(folder: Path, key: str, paths: list[Path]) -> Listed:
    num_bytes, used = 0, 0.0
    for path in paths:
        with contextlib.suppress(OSError):  # another process may be renaming it
            state = path.stat()
            num_bytes, used = num_bytes + state.st_size, max(used, state.st_mtime)
    try:
        about = json.loads((folder / f"{key}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        about = {}
    return Listed(key, about if isinstance(about, dict) else {}, num_bytes, used)


def prune(folder: Path, unused_days: float | None = None) -> list[Listed]:
    """Remove what no run reads any more, and entries unused for that many days; returns what was removed.

    An entry that another process is building is left alone. Arrays that are open elsewhere stay valid until closed.
    """
    removed = []
    for entry in listed(folder):
        old = unused_days is not None and time.time() - entry.used > unused_days * 86_400
        if (old or not entry.reachable) and _remove(folder, entry.key):
            removed.append(entry)
    for key, suffixes in _written(folder).items():
        if suffixes == {_LOCK}:
            _remove(folder, key)
    return removed


def _remove(folder: Path, key: str) -> bool:
    """Whether there was something of the entry to remove, and nobody was building it."""
    removed = False
    with _locked(folder / f"{key}{_LOCK}", blocking=False) as had:
        if had:
            for suffix in _SUFFIXES:
                with contextlib.suppress(FileNotFoundError):
                    (folder / f"{key}{suffix}").unlink()
                    removed = True
            (folder / f"{key}{_LOCK}").unlink(missing_ok=True)
    return removed
