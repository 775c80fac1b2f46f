"""Changing an image file in a way that neither its name, its size nor its modification time shows."""

from __future__ import annotations

import os
from pathlib import Path


def swap_bytes(path: Path) -> None:
    """Turn one bit of a file, and give it back its time."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
