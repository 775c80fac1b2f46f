"""Writing files so that a reader never meets half a file, after a crash, a full disk or a second writer."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from peftbench.foundation.errors import RecordError

_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


def replace_text(path: Path, text: str) -> None:
    """Write `text` to `path`, replacing an older file in one step. Raises `RecordError` when it cannot be written."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, replacing an older file in one step. Raises `RecordError` when that fails."""
    with _explained(path), _temporary(path, content) as temporary:
        temporary.replace(path)
        _sync_folder(path.parent)


def check_writable(path: Path) -> None:
    """Try ahead of long work what `replace_bytes` does to `path`; what stays is as before. Raises `RecordError` as it
    does.
    """
    with _explained(path), _folders_as_before(path.parent):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        with _temporary(path, b""):
            pass


@contextlib.contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """Where other code may write what `replace_bytes` is to put at `path`: a file of that name which no other writer
    has, on the same disk. It is gone afterwards, and so are folders that were made for it and hold nothing.

    Raises `RecordError` where there is no place for it.
    """
    with _folders_as_before(path.parent), contextlib.ExitStack() as stack:
        with _explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
            folder = stack.enter_context(aside)
        yield Path(folder) / path.name


@contextlib.contextmanager
def _folders_as_before(folder: Path) -> Iterator[None]:
    """Takes away what was made of `folder` within this and is still empty: work that fails later leaves nothing."""
    absent = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            for place in absent:
                place.rmdir()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Within this no other process, on this host or another, holds the lock at `path`. Waits for it.

    A lock ends with its process. Raises `RecordError` when it cannot be made.
    """
    with contextlib.ExitStack() as stack:
        with _explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("wb"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def create_text(path: Path, text: str) -> None:
    """Write `text` to `path`, which must not exist; of two writers exactly one succeeds.

    Raises `FileExistsError` when the file is already there and `RecordError` when it cannot be written.
    """
    with _explained(path), _temporary(path, text.encode()) as temporary:
        try:
            os.link(temporary, path)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            _rename_exclusively(temporary, path)
        _sync_folder(path.parent)


def _rename_exclusively(temporary: Path, path: Path) -> None:
    """Exclusive creation on a filesystem without hard links: whoever creates the claim file may rename.

    A claim left behind by a killed process keeps blocking; the error names the file to remove.
    """
    claim = path.with_name(f".{path.name}.claim")
    try:
        os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        raise RecordError(f"{path} is being written by another process; if none is running, remove {claim}") from None
    try:
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        temporary.replace(path)
    finally:
        claim.unlink()


@contextlib.contextmanager
def _temporary(path: Path, content: bytes) -> Iterator[Path]:
    """A complete, synced file beside `path` (links and renames cannot cross filesystems), removed afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner can read; results are shared
        temporary.chmod(0o644)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns errors of the operating system into one line that also says what did not happen."""
    try:
        yield
    except FileExistsError as error:
        # only the final name existing is an answer; a file standing where a folder is needed is a problem
        if not path.is_file():
            raise RecordError(f"cannot write {path}: {error.filename} is not a folder") from None
        raise
    except OSError as error:
        if error.errno in _NO_SPACE:
            reason, advice = "no space left on the device", "free some space and run the same command again"
        else:
            reason, advice = error.strerror or str(error), "check that the folder can be written"
            if error.errno == errno.EISDIR:
                advice = "move that folder away, or name another file"
        raise RecordError(f"cannot write {path}: {reason}; nothing already recorded was touched; {advice}") from error


def _sync_folder(folder: Path) -> None:
    """Makes a new name survive a power cut, on filesystems that can sync a folder."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
