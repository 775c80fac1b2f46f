"""Sheets of pictures as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from peftbench.foundation.errors import BadInput

if TYPE_CHECKING:
    from PIL.Image import Image


def write_sheet(sheet: Image, path: Path) -> None:
    """Write a PNG, and the folders it lies in where they are not there. Raises `BadInput` when that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path, "PNG")
    except OSError as error:
        raise BadInput(f"{path} cannot be written ({error.strerror or error}); name another file with --out") from error
