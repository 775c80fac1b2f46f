"""Sheets of pictures as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from peftbench.foundation.errors import BadInput
from peftbench.foundation.overwriting import refuse_other, refuse_within

if TYPE_CHECKING:
    from PIL.Image import Image

# by which a sheet of this package is known
_SOFTWARE, _OURS = "Software", "peftbench"


def check_sheet(path: Path, data: Sequence[Path]) -> None:
    """What is refused of a place for a sheet, ahead of the work. `data`: files and folders that are read.

    Raises `ConfigError` for a file of the data or a place among it, and for a file that is no sheet of this package;
    those of earlier versions carry no mark and are not known.
    """
    refuse_other(path, "sheet", _is_sheet, data)
    refuse_within(path, data)


def _is_sheet(path: Path) -> bool:
    from PIL import Image as images

    try:
        with images.open(path) as image:
            return image.format == "PNG" and image.info.get(_SOFTWARE) == _OURS
    except (OSError, ValueError, SyntaxError, images.DecompressionBombError):
        return False


def write_sheet(sheet: Image, path: Path) -> None:
    """Write a PNG, and the folders it lies in where they are not there. Raises `BadInput` when that fails."""
    from PIL.PngImagePlugin import PngInfo

    about = PngInfo()
    about.add_text(_SOFTWARE, _OURS)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path, "PNG", pnginfo=about)
    except OSError as error:
        raise BadInput(f"{path} cannot be written ({error.strerror or error}); name another file with --out") from error
