"""One picture that shows a dataset: a few images of every class under its name, or images with their maps or texts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from peftbench.data.boxes import has_area
from peftbench.data.maps import class_colours, coloured, depth_limits
from peftbench.data.raw import RawSplit
from peftbench.data.texted import TextedSplit
from peftbench.foundation.maps import BOXES

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


def text_sheet(split: TextedSplit, answers: Sequence[str], number: int = 8, tile: int = 128, most: int = 3) -> Image:
    """The first images of a split, each with its first texts below it: captions, or a question with the one of
    `answers` that most annotators gave.
    """
    from PIL import Image as images
    from PIL import ImageDraw, ImageFont

    font, width = ImageFont.load_default(12), 2 * tile
    chosen = range(min(number, len(split)))
    below = [_lines(_said(split, index, answers, most), font.getlength, width - _MARGIN) for index in chosen]
    height = tile + _TEXT_HEIGHT * max(map(len, below), default=0) + 2 * _MARGIN
    across = min(4, len(below))
    sheet = images.new("RGB", (across * width + _MARGIN, -(-len(below) // across) * height + _MARGIN), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for index, lines in zip(chosen, below, strict=True):
        left, top = _MARGIN + index % across * width, _MARGIN + index // across * height
        sheet.paste(_fitted(split.read(index), tile), (left, top))
        for place, line in enumerate(lines):
            draw.text((left, top + tile + 4 + place * _TEXT_HEIGHT), line, _INK, font)
    return sheet


def _said(split: TextedSplit, index: int, answers: Sequence[str], most: int) -> list[str]:
    texts = list(split.texts[index])
    shown = texts[:most] + ([f"and {len(texts) - most} more"] if len(texts) > most else [])
    if split.answers is None:
        return shown
    given = split.answers[index]
    known = np.bincount(given[given >= 0]) if (given >= 0).any() else None
    return [*shown, f"= {'an answer outside the list' if known is None else answers[int(known.argmax())]}"]


def _lines(texts: Sequence[str], length: Callable[[str], float], width: int) -> list[str]:
    """The texts in lines that are at most `width` pixels long; a longer word has a line of its own."""
    lines = []
    for text in texts:
        line = ""
        for word in text.split():
            if line and length(f"{line} {word}") > width:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}".strip()
        lines.append(line)
    return lines


def map_sheet(split: RawSplit, class_names: tuple[str, ...], rows: int = 8, tile: int = 96) -> Image:
    """The first images of a split, each in a row with its maps; the colours of the classes below."""
    chosen = range(min(rows, len(split)))
    maps = {name: [split.read_map(name, index) for index in chosen] for name in split.maps}
    limits = depth_limits(maps["depth"]) if "depth" in maps else (0.0, 1.0)
    pictures = []
    for index in chosen:
        image = np.asarray(split.read(index).convert("RGB"))
        pictures.append([image, *(map_picture(name, maps[name][index], image, limits, tile) for name in maps)])
    return picture_table(["image", *maps], pictures, class_names if with_classes(maps) else (), tile)


def with_classes(maps: Collection[str]) -> bool:
    """Whether colours of classes are seen in pictures of these maps."""
    return "class_map" in maps or BOXES in maps


def map_picture(
    name: str, values: np.ndarray, image: np.ndarray, limits: tuple[float, float] = (0.0, 1.0), tile: int = 96
) -> np.ndarray:
    """A map as a picture, uint8 [height, width, 3]; boxes around what `image` shows, as large as the tile.

    A box has the colour of its class, or grey where it is not asked for.
    """
    if name != BOXES:
        return coloured(name, values, limits)
    from PIL import Image as images
    from PIL import ImageDraw

    picture = _fitted(images.fromarray(image), tile)
    draw, scale = ImageDraw.Draw(picture), picture.width / image.shape[1]
    for left, top, right, bottom, number, ignored in values[has_area(values)].tolist():
        colour = _FAINT if ignored else tuple(class_colours(int(number) + 1)[-1].tolist())
        draw.rectangle((scale * left, scale * top, scale * right - 1, scale * bottom - 1), outline=colour, width=2)
    return np.asarray(picture)


def picture_table(
    headers: Sequence[str], rows: Sequence[Sequence[np.ndarray]], class_names: Sequence[str] = (), tile: int = 96
) -> Image:
    """Pictures (uint8 [height, width, 3]) in rows under `headers`, and below them the colour of every class."""
    from PIL import Image as images
    from PIL import ImageDraw, ImageFont

    font = ImageFont.load_default(12)
    width = max(len(headers) * (tile + 2) + 2 * _MARGIN, 320)
    key = [f"{number} {name}" for number, name in enumerate(class_names)]
    across = max(1, int((width - _MARGIN) // (max([font.getlength(words) for words in key], default=0) + 24)))
    below = _TEXT_HEIGHT + len(rows) * (tile + 2) + 2 * _MARGIN
    sheet = images.new("RGB", (width, below + -(-len(key) // across) * _TEXT_HEIGHT + _MARGIN), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for column, header in enumerate(headers):
        draw.text((_MARGIN + column * (tile + 2), _MARGIN // 2), header, _INK, font)
        for row, pictures in enumerate(rows):
            picture = _fitted(images.fromarray(pictures[column]), tile)
            sheet.paste(picture, (_MARGIN + column * (tile + 2), _MARGIN + _TEXT_HEIGHT + row * (tile + 2)))
    step = (width - _MARGIN) // across
    for number, (words, colour) in enumerate(zip(key, class_colours(len(key)).tolist(), strict=True)):
        left, top = _MARGIN + number % across * step, below + number // across * _TEXT_HEIGHT
        draw.rectangle((left, top + 2, left + 12, top + 13), tuple(colour), _INK)
        draw.text((left + 17, top), words, _INK, font)
    return sheet


def strips(clips: Sequence[Sequence[Image]], captions: Sequence[str], tile: int = 64) -> Image:
    """Clips as strips, the frames of each side by side in their order under its caption."""
    from PIL import Image as images
    from PIL import ImageDraw, ImageFont

    font, height = ImageFont.load_default(12), tile + _TEXT_HEIGHT + _MARGIN
    longest = max(*(len(frames) * (tile + 2) for frames in clips), *map(font.getlength, captions))
    sheet = images.new("RGB", (round(longest) + 2 * _MARGIN, len(clips) * height + _MARGIN), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for row, (frames, words) in enumerate(zip(clips, captions, strict=True)):
        top = row * height + _MARGIN // 2
        draw.text((_MARGIN, top), words, _INK, font)
        for place, frame in enumerate(frames):
            sheet.paste(_fitted(frame, tile), (_MARGIN + place * (tile + 2), top + _TEXT_HEIGHT))
    return sheet


def clip_sheet(split: RawSplit, class_names: Sequence[str], tile: int = 64, most: int = 12) -> Image:
    """The first clip of each of the first `most` classes that the split has, as strips."""
    first = {int(label): index for index, label in reversed(list(enumerate(split.labels)))}
    chosen = sorted(first)[:most]
    return strips([split.read_clip(first[label]) for label in chosen], [class_names[label] for label in chosen], tile)


def _fitted(image: Image, tile: int) -> Image:
    """Scaled to the tile; small images by whole pixels, so that what is learned from can be seen."""
    from PIL.Image import Resampling

    factor = tile / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.convert("RGB").resize(size, Resampling.NEAREST if factor >= 2 else Resampling.LANCZOS)
