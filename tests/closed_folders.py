"""A folder of another user's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def close_folder(monkeypatch: pytest.MonkeyPatch, closed: Path) -> None:
    """What such a folder answers to whoever lists it; the tests may run as root, who may read all."""
    scandir = os.scandir

    def scan(place: str | Path | int = "."):
        if place in (closed, str(closed)):
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", scan)
