"""TFRecord files of `tf.train.Example` messages, read without TensorFlow.

A record is its length (8 bytes), a check sum (4), the message and another check sum (4). A message holds named
features; only the wire format of protocol buffers that this needs is understood (varints and length-delimited fields).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from peftbench.foundation.errors import BadInput

_VARINT, _DELIMITED = 0, 2
_BYTES_LIST, _INT64_LIST = 1, 3


@dataclass(frozen=True)
class Record:
    """One message. `values`: short byte features; `numbers`: integer features; the image stays on the disk."""

    path: Path
    start: int
    stop: int
    values: dict[str, bytes]
    numbers: dict[str, int]

    def image(self) -> bytes:
        """The encoded image, between `start` and `stop` of the file."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            return file.read(self.stop - self.start)


def scan(path: Path, image: str = "image") -> list[Record]:
    """All records of a file; the pixels are skipped, not read. Raises `BadInput` for anything else than such a file."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return [_record(path, data, start, stop, image) for start, stop in _messages(data)]
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise BadInput(f"{path}: not a complete TFRecord file ({error}); download it again") from error


def _messages(data: mmap.mmap) -> Iterator[tuple[int, int]]:
    position = 0
    while position < len(data):
        length = int.from_bytes(data[position : position + 8], "little")
        start = position + 12
        position = start + length + 4
        if position > len(data):
            raise ValueError("the last record is cut short")
        yield start, start + length


def _record(path: Path, data: mmap.mmap, start: int, stop: int, image: str) -> Record:
    values: dict[str, bytes] = {}
    numbers: dict[str, int] = {}
    place = None
    for _, features_start, features_stop in _fields(data, start, stop):
        for _, entry_start, entry_stop in _fields(data, features_start, features_stop):
            (_, *key), (_, *feature) = sorted(_fields(data, entry_start, entry_stop))
            name = data[key[0] : key[1]].decode("utf-8")
            [(kind, *content)] = _fields(data, feature[0], feature[1])
            if kind == _INT64_LIST:
                numbers[name] = _first_number(data, content[0], content[1])
                continue
            if kind != _BYTES_LIST:
                continue
            [(_, *value)] = _fields(data, content[0], content[1])
            if name == image:
                place = value
            else:
                values[name] = data[value[0] : value[1]]
    if place is None:
        raise ValueError(f"a record has no feature '{image}'")
    return Record(path, place[0], place[1], values, numbers)


def _fields(data: mmap.mmap, position: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """(field number, start, stop) of the length-delimited fields of a message."""
    while position < stop:
        tag, position = _varint(data, position)
        if tag & 7 != _DELIMITED:
            raise ValueError(f"unexpected wire type {tag & 7}")
        length, position = _varint(data, position)
        if position + length > stop:
            raise ValueError("a field reaches beyond its message")
        yield tag >> 3, position, position + length
        position += length


def _first_number(data: mmap.mmap, position: int, stop: int) -> int:
    """The first value of an Int64List, which may be packed or not."""
    tag, position = _varint(data, position)
    if tag & 7 == _DELIMITED:
        _, position = _varint(data, position)
    elif tag & 7 != _VARINT:
        raise ValueError(f"unexpected wire type {tag & 7}")
    return _varint(data, position)[0]


def _varint(data: mmap.mmap, position: int) -> tuple[int, int]:
    """(value, position behind it) of a base-128 number, low groups first."""
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position
