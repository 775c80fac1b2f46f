"""Packed records: one compressed JSON-lines file in place of a folder of small files.

The first line names the fingerprints, so that looking one up reads no record; each further line is one record.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import TextIO

from peftbench.foundation.errors import RecordError
from peftbench.foundation.files import replace_bytes
from peftbench.records.record import FIELDS, LARGEST_BYTES, RunRecord

SUFFIX = ".jsonl.gz"
# what `leaderboard --suite` calls records in no pack, and those of all packs: no names for a pack
OWN, PACKED = "own", "packed"
_VERSION = 1
_MOST_WRONG = 1_000
_BROKEN = (OSError, EOFError, zlib.error, UnicodeDecodeError)


def write_pack(path: Path, records: Iterable[RunRecord]) -> None:
    """Write `records`, ordered by fingerprint, to `path` in one step: the same records give the same bytes.

    (Bytes are those of the zlib at hand; other versions may compress the same lines differently.)
    """
    write_lines(path, {record.fingerprint: to_line(record) for record in records})


def to_line(record: RunRecord) -> bytes:
    """A record as one line, from which its file can be made again byte for byte."""
    values = {field: getattr(record, field) for field in FIELDS}
    if record.task is None:
        del values["task"]
    return _line(values)


def write_lines(path: Path, lines: Mapping[str, bytes]) -> None:
    """`write_pack` for records that are lines already, by fingerprint: a tenth of the memory."""
    buffer = io.BytesIO()
    # no name and no time in the header: they would change the bytes
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=buffer, mtime=0) as file:
        for line in _all_lines(lines):
            file.write(line)
    replace_bytes(path, buffer.getvalue())


def holds_exactly(path: Path, lines: Mapping[str, bytes]) -> bool:
    """Whether a pack reads back as these lines."""
    try:
        with gzip.open(path, "rb") as file:
            return all(found == line for found, line in zip_longest(file, _all_lines(lines)))
    except _BROKEN:
        return False


def packed_fingerprints(path: Path) -> frozenset[str]:
    """Fingerprints of the records in a pack, from its first line. Raises `RecordError` when it is none."""
    try:
        with _opened(path) as file:
            header = json.loads(_next_line(file))
    except (*_BROKEN, ValueError, RecursionError) as error:
        raise RecordError(f"{path}: not a pack of records ({error})") from None
    names = header.get("fingerprints") if isinstance(header, dict) and header.get("pack") == _VERSION else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RecordError(f"{path}: not a pack of records that this version reads")
    return frozenset(names)


def read_pack(path: Path) -> Iterator[RunRecord | RecordError]:
    """The records of a pack, one at a time; in place of a line that is none, and of a damaged rest, the error."""
    try:
        expected = packed_fingerprints(path)
    except RecordError as error:
        yield error
        return
    found = num_wrong = 0
    try:
        with _opened(path) as file:
            _next_line(file)
            # what follows the records it names, and more than a few wrong lines, can only be damage
            while found <= len(expected) and num_wrong < _MOST_WRONG and (line := _next_line(file)):
                found += 1
                try:
                    yield RunRecord.from_json(line)
                except RecordError as error:
                    num_wrong += 1
                    yield RecordError(f"{path}, line {found + 1}: {error}")
    except (*_BROKEN, ValueError) as error:
        yield RecordError(f"{path}: damaged after {found} of {len(expected)} records ({error})")
        return
    if found != len(expected):
        more = "more than " if found > len(expected) else ""
        number = len(expected) if more else found
        yield RecordError(f"{path}: holds {more}{number} records, its first line names {len(expected)}")


def unpack_one(path: Path, fingerprint: str) -> RunRecord:
    """One record of a pack; raises `RecordError` when it is not there or cannot be read."""
    problem = RecordError(f"{path}: no record {fingerprint}")
    for entry in read_pack(path):
        if isinstance(entry, RunRecord):
            if entry.fingerprint == fingerprint:
                return entry
        else:
            problem = entry
    raise problem


def _opened(path: Path) -> TextIO:
    if not path.is_file():
        raise OSError("not a file")  # opening a pipe would wait for somebody to write into it
    return gzip.open(path, "rt", encoding="utf-8")


def _next_line(file: TextIO) -> str:
    """The next line; raises `ValueError` for one that no record has, before it fills the memory."""
    line = file.readline(LARGEST_BYTES)
    if len(line) == LARGEST_BYTES:
        raise ValueError(f"a line of more than {LARGEST_BYTES / 1e6:.0f} MB")
    return line


def _all_lines(lines: Mapping[str, bytes]) -> Iterator[bytes]:
    ordered = sorted(lines)
    yield _line({"pack": _VERSION, "fingerprints": ordered})
    for name in ordered:
        yield lines[name]


def _line(value: object) -> bytes:
    return (json.dumps(value, separators=(",", ":"), allow_nan=False) + "\n").encode()
