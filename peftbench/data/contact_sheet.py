"""One picture that shows a dataset: a few images of every class under its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from peftbench.data.base import RawSplit

if TYPE_CHECKING:
    from PIL.Image import Image

_MARGIN, _TEXT_HEIGHT = 8, 16
_FEW_CLASSES = 20
_BACKGROUND, _INK, _FAINT = (255, 255, 255), (20, 20, 20), (150, 150, 150)


def contact_sheet(split: RawSplit, class_names: tuple[str, ...], per_class: int = 8, tile: int = 64) -> Image:
    """The first `per_class` images of every class, each in a square of `tile` pixels with its shape kept."""
    from PIL import Image as images
    from PIL import ImageDraw, ImageFont

    num_columns = 1 if len(class_names) <= _FEW_CLASSES else 3
    num_rows = -(-len(class_names) // num_columns)
    width = per_class * (tile + 2) + _MARGIN
    height = tile + _TEXT_HEIGHT + _MARGIN
    sheet = images.new("RGB", (num_columns * width + _MARGIN, num_rows * height + _MARGIN), _BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for label, name in enumerate(class_names):
        # down the columns, so that neighbours in the list are neighbours on the sheet
        left = _MARGIN + label // num_rows * width
        top = _MARGIN + label % num_rows * height
        rows = np.flatnonzero(split.labels == label)
        draw.text((left, top), name if name == str(label) else f"{label} {name}", _INK, font)
        note = f"{len(rows)}"
        draw.text((left + width - _MARGIN - 6 - draw.textlength(note, font), top), note, _FAINT, font)
        for place, row in enumerate(rows[:per_class]):
            picture = _fitted(split.read(int(row)), tile)
            corner = (left + place * (tile + 2), top + _TEXT_HEIGHT)
            sheet.paste(picture, (corner[0] + (tile - picture.width) // 2, corner[1] + (tile - picture.height) // 2))
    return sheet


def _fitted(image: Image, tile: int) -> Image:
    """Scaled to the tile; small images by whole pixels, so that what is learned from can be seen."""
    from PIL.Image import Resampling

    factor = tile / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.convert("RGB").resize(size, Resampling.NEAREST if factor >= 2 else Resampling.LANCZOS)
