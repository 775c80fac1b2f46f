"""SHA-256 of files, remembered between runs so that unchanged files are read once.

What is remembered of a file stands under its device, inode, size and both its times, so that another file under an old
name is another file. A file that changed within the resolution of these times before it was read is not remembered: a
second change at the same time would not show.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from peftbench.foundation.errors import BadInput
from peftbench.foundation.location import default_cache_dir

# FAT keeps times of two seconds; a network's server may be that far behind this machine's clock
RESOLUTION_NS = 2_000_000_000
_MAGIC = b"peftbench file digests 1\n"
_STATE = struct.Struct("<5Q")
_ROW = _STATE.size + 32
_FILE = 16  # of a state's bytes: device and inode
# what is remembered of one folder; the oldest go first
_MOST_ROWS = 1_000_000

_fresh: set[Path] | None = None  # while everything is read anew: the files whose digest was remembered wrongly


def files_digest(paths: Sequence[Path]) -> str:
    """SHA-256 (hex) over the ordered content of `paths`: the file's own for one file, of the joined hashes for more.

    Raises `BadInput` when a file cannot be read.
    """
    digests = digests_of(paths)
    return digests[0].hex() if len(digests) == 1 else hashlib.sha256(b"".join(digests)).hexdigest()


def digests_of(paths: Sequence[Path], states: Sequence[bytes] | None = None) -> list[bytes]:
    """SHA-256 of the bytes of each file, in order. `states`: what `file_state` has just said of them.

    Raises `BadInput` when a file cannot be read.
    """
    if states is None:
        states = [file_state(path) for path in paths]
    folders: dict[str, list[int]] = {}
    for row, path in enumerate(paths):
        folders.setdefault(os.path.dirname(path), []).append(row)  # noqa: PTH120 - as above
    digests = [b""] * len(paths)
    for folder, rows in folders.items():
        found = _in_folder(folder, [paths[row] for row in rows], [states[row] for row in rows])
        for row, digest in zip(rows, found, strict=True):
            digests[row] = digest
    return digests


def _in_folder(folder: str, paths: list[Path], states: list[bytes]) -> list[bytes]:
    table = _table_of(folder)
    known = _read_table(table)
    digests = [known.get(state, b"") for state in states]
    wanted = [row for row, digest in enumerate(digests) if not digest or _fresh is not None]
    if not wanted:
        return digests
    with ThreadPoolExecutor(max_workers=4) as pool:
        found = list(pool.map(_hash_settled, [paths[row] for row in wanted]))
    new = {}
    for row, (state, digest) in zip(wanted, found, strict=True):
        if _fresh is not None and digests[row] not in (b"", digest):
            _fresh.add(paths[row])
        digests[row] = digest
        if state is not None:
            new[state] = digest
    if new:
        # of a file that changed only the new state is of use
        replaced = {state[:_FILE] for state in new}
        _write_table(table, {state: known[state] for state in known if state[:_FILE] not in replaced} | new)
    return digests


@contextlib.contextmanager
def read_anew() -> Iterator[set[Path]]:
    """Within this every file is read, whatever is remembered. Yields a set to which the files are added whose bytes
    are not those that were remembered of them: their times did not show a change."""
    global _fresh
    before, _fresh = _fresh, set()
    try:
        yield _fresh
    finally:
        _fresh = before


def file_state(path: Path | str) -> bytes:
    """Device, inode, size, and times of content and of change of a file or folder, as 40 bytes.

    Raises `BadInput` when there is none or it cannot be reached.
    """
    try:
        return _packed(os.stat(path))  # noqa: PTH116 - twice as fast as Path.stat, and there may be 100,000 of them
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from error


def settled(state: bytes, now_ns: int) -> bool:
    """Whether a file in this state was last changed so long before `now_ns` that a later change would show."""
    *_, modified, changed = _STATE.unpack(state)
    return max(int(modified), int(changed)) < now_ns - RESOLUTION_NS


def hash_file(path: Path) -> bytes:
    """SHA-256 of the bytes of `path`, always read. Raises `OSError`."""
    with path.open("rb") as file:
        return _hash(file.fileno())


def _packed(found: os.stat_result) -> bytes:
    # the change time is there because copying tools restore the modification time, and nothing restores this one
    numbers = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return _STATE.pack(*(number & 0xFFFF_FFFF_FFFF_FFFF for number in numbers))


def _hash(descriptor: int) -> bytes:
    digest = hashlib.sha256()
    while block := os.read(descriptor, 1 << 20):
        digest.update(block)
    return digest.digest()


def _hash_settled(path: Path) -> tuple[bytes | None, bytes]:
    """The digest, and the state it may be remembered under: None when the file is too young or changed meanwhile."""
    try:
        now = time.time_ns()
        with path.open("rb") as file:
            before = _packed(os.fstat(file.fileno()))
            digest = _hash(file.fileno())
            same = _packed(os.fstat(file.fileno())) == before
        return (before if same and settled(before, now) else None), digest
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from error


def _table_of(folder: str) -> Path:
    """Where the digests of files in this folder are remembered."""
    place = os.path.abspath(folder)  # noqa: PTH100 - links stay as they are
    name = hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return default_cache_dir() / "digests" / f"{name}.table"


def _read_table(table: Path) -> dict[bytes, bytes]:
    """State -> digest; empty when there is no table or it is not whole."""
    try:
        content = table.read_bytes()
    except OSError:
        return {}
    body = content[len(_MAGIC) + 32 :]
    whole = content.startswith(_MAGIC) and len(body) % _ROW == 0
    if not whole or hashlib.sha256(body).digest() != content[len(_MAGIC) : len(_MAGIC) + 32]:
        return {}
    split = _STATE.size
    return {body[at : at + split]: body[at + split : at + _ROW] for at in range(0, len(body), _ROW)}


def _write_table(table: Path, known: dict[bytes, bytes]) -> None:
    rows = list(known.items())[-_MOST_ROWS:]
    body = b"".join(state + digest for state, digest in rows)
    try:
        table.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=table.parent, delete=False) as file:
            try:
                file.write(_MAGIC + hashlib.sha256(body).digest() + body)
                file.flush()
                Path(file.name).replace(table)
            except OSError:
                Path(file.name).unlink()
                raise
    except OSError:
        # A shortcut only: a read-only or full cache folder costs the hashing next time, nothing else.
        return
