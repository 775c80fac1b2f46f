"""SHA-256 of files, remembered between runs so that unchanged files are read once."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from peftbench.foundation.errors import BadInput
from peftbench.foundation.location import default_cache_dir


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of the bytes of one file. Raises `BadInput` when it cannot be read."""
    return files_digest([path])


def files_digest(paths: Sequence[Path]) -> str:
    """SHA-256 (hex) over the ordered content of `paths`: the file's own for one file, of the joined hashes for more.

    The result is remembered in the cache folder under the paths with their sizes and times of change.
    """
    memo = default_cache_dir() / "digests" / _state(paths)
    try:
        known = memo.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        known = ""
    if len(known) == 64:
        return known
    with ThreadPoolExecutor(max_workers=4) as pool:
        digests = list(pool.map(_hash_readable, paths))
    result = digests[0].hex() if len(digests) == 1 else hashlib.sha256(b"".join(digests)).hexdigest()
    _remember(memo, result)
    return result


def _state(paths: Sequence[Path]) -> str:
    # The change time is in the key because copying tools restore the modification time, and nothing restores this one.
    state = hashlib.sha256()
    here = Path.cwd()
    for path in paths:
        try:
            found = os.stat(path)  # noqa: PTH116 - twice as fast as Path.stat, and there may be 70,000 of them
        except OSError as error:
            raise BadInput(f"{path}: cannot be read ({error.strerror})") from error
        place = path if path.is_absolute() else here / path
        line = f"{place}\n{found.st_size}\n{found.st_mtime_ns}\n{found.st_ctime_ns}\n"
        state.update(line.encode("utf-8", "surrogateescape"))
    return state.hexdigest()


def hash_file(path: Path) -> bytes:
    """SHA-256 of the bytes of `path`, always read. Raises `OSError`."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()


def _hash_readable(path: Path) -> bytes:
    try:
        return hash_file(path)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from error


def _remember(memo: Path, result: str) -> None:
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=memo.parent, encoding="ascii", delete=False) as file:
            try:
                file.write(result)
                file.flush()
                Path(file.name).replace(memo)
            except OSError:
                Path(file.name).unlink()
                raise
    except OSError:
        # A shortcut only: a read-only or full cache folder costs the hashing next time, nothing else.
        return
