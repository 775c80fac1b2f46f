"""The file of one record: read, looked at for damage, and named where it is one too many."""

from __future__ import annotations

import io
import stat
from pathlib import Path

from peftbench.foundation.errors import RecordError
from peftbench.records.packed import SUFFIX
from peftbench.records.record import LARGEST_BYTES, RunRecord

# bytes at either end of a file that are looked at; white space may stand around a record
_ENDS = 64


def read_record(path: Path) -> RunRecord:
    """The record in one file; raises `RecordError` naming the file when it holds none or another's."""
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise RecordError("not a file; move it away")
        if state.st_size > LARGEST_BYTES:
            raise RecordError(f"{state.st_size / 1e6:,.0f} MB are not one record")
        record = RunRecord.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecordError) as error:
        raise RecordError(f"{path}: {error}") from None
    if path.stem != record.fingerprint:
        raise RecordError(
            f"{path}: holds record {record.fingerprint}; the file must be named {record.fingerprint}.json"
        )
    return record


def cut_off(path: Path) -> bool:
    """Whether a record's file is empty or lacks its opening or closing brace, as after a full disk or a broken copy.

    A look at both ends, cheap enough for every cell of a large grid: damage in the middle shows only where the record
    is read. Packed records are not looked at.
    """
    if path.name.endswith(SUFFIX):
        return False
    try:
        with path.open("rb") as stream:
            first = stream.read(_ENDS)
            size = stream.seek(0, io.SEEK_END)
            stream.seek(max(0, size - _ENDS))
            last = stream.read(_ENDS)
    except OSError:
        return True
    return not (first.lstrip().startswith(b"{") and last.rstrip().endswith(b"}"))


def second_file(path: Path, fingerprint: str) -> str:
    """What to say of a file whose record stands elsewhere as well."""
    return f"{path}: a second file for record {fingerprint}; delete one of the two"
