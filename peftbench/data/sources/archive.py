"""Unpacking of downloaded archives: nothing leaves the folder it is unpacked into, and nothing half-done is kept."""

from __future__ import annotations

import errno
import fcntl
import lzma
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from peftbench.foundation.errors import BadInput, PeftbenchError

_TAR_ENDS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,  # a compression zipfile does not know
    RuntimeError,  # an encrypted zip
)


def is_archive(name: str) -> bool:
    return name.lower().endswith((".zip", *_TAR_ENDS))


def unpack(archive: Path, into: Path) -> None:
    """Unpack a zip or tar file as the folder `into`, which appears only once it is complete; a finished one is kept.

    Raises `BadInput` for a damaged archive and for members that are links or would land outside `into`.
    """
    with building(into) as folder:
        if folder is None:
            return
        try:
            members = _zip_members(archive) if zipfile.is_zipfile(archive) else _tar_members(archive)
            for name, stream in members:
                target = folder / _inside(archive, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                with stream, target.open("xb") as file:
                    shutil.copyfileobj(stream, file, 1 << 20)
        except _DAMAGED as error:
            raise BadInput(f"{archive}: the archive is damaged ({error}); delete it and download it again") from error
        except FileExistsError as error:
            raise BadInput(f"{archive}: two members of the archive have one name ({error.filename})") from error


@contextmanager
def building(into: Path) -> Iterator[Path | None]:
    """A folder to fill, which becomes `into` when all went well; None when `into` is there.

    One process at a time; what a killed one left is removed. Raises `PeftbenchError` when the disk is full or closed.
    """
    partial = into.with_name(f"{into.name}.partial")
    try:
        into.parent.mkdir(parents=True, exist_ok=True)
        with into.with_name(f"{into.name}.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if into.is_dir():
                yield None
                return
            shutil.rmtree(partial, ignore_errors=True)
            try:
                partial.mkdir()
                yield partial
                partial.rename(into)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise PeftbenchError(
            f"{into.parent}: cannot unpack here ({error.strerror}), nothing half-done was kept; "
            "free some space or set PEFTBENCH_CACHE to a folder on a larger disk that can be written"
        ) from error


def _zip_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as members:
        _check_room(archive, sum(member.file_size for member in members.infolist()))
        for member in members.infolist():
            if member.external_attr >> 28 == 0o12:
                raise BadInput(f"{archive}: '{member.filename}' is a link; refused, unpack the archive by hand")
            if not member.is_dir():
                yield member.filename, members.open(member)


def _check_room(archive: Path, needed: int) -> None:
    free = shutil.disk_usage(archive.parent).free
    if needed > free:
        raise PeftbenchError(
            f"{archive}: {needed / 1e9:,.1f} GB needed to unpack, {free / 1e9:,.1f} GB free; "
            "free some space or set PEFTBENCH_CACHE to a folder on a larger disk"
        )


def _tar_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(archive) as members:
        for member in members:
            if member.isdir():
                continue
            # a tar has no list of its members ahead: each says its size before its bytes are unpacked
            _check_room(archive, member.size)
            stream = members.extractfile(member) if member.isreg() else None
            if stream is None:
                raise BadInput(f"{archive}: '{member.name}' is a link or a device; refused, unpack the archive by hand")
            yield member.name, stream


def _inside(archive: Path, name: str) -> Path:
    parts = re.split(r"[/\\]", name)
    if not name or name[0] in "/\\" or name[1:2] == ":" or ".." in parts or "\0" in name:
        raise BadInput(f"{archive}: '{name}' would be unpacked outside its folder; refused, do not trust this archive")
    return Path(*parts)
