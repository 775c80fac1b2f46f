"""Files that were given as lists of images and are none yet: JSON, other separators, paths without their endings."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from peftbench.data.sources.folder import SUFFIXES
from peftbench.data.sources.image_lists import places_near
from peftbench.data.sources.list_columns import IMAGE_NAME
from peftbench.foundation.errors import BadInput, brief

# a word of a header, or an image, and then the separator of other programs
_BARS = re.compile(rf"(?:\w+|{IMAGE_NAME.pattern})\s*\|", re.IGNORECASE)
_ENDINGS = [ending for suffix in sorted(SUFFIXES) for ending in (suffix, suffix.upper())]
# enough to pass a header, and rows whose image alone is absent
_ROWS_LOOKED_AT = 4


def refuse_json(file: Path, text: str) -> None:
    """Raises `BadInput` for JSON, one value or one a line."""
    start = text.lstrip()[:1]
    if start and start in "[{" and (_is_json(text) or _is_json(text.strip().partition("\n")[0])):
        raise BadInput(
            f"{file}: it holds JSON, and a list has a row an image; write it as CSV, with path,label in its first line"
        )


def refuse_bars(file: Path, first: str, second: str) -> None:
    """Raises `BadInput` where the first two lines, which hold no separator but blanks, are separated by `|`."""
    if "|" in second and _BARS.match(first.strip()):
        raise BadInput(
            f"{file}: '|' separates its columns and is not read; separate them by commas, semicolons or tabs"
        )


def refuse_without_endings(file: Path, folder: Path, paths: Sequence[str], header: Sequence[str] | None) -> None:
    """Raises `BadInput` where paths lack the ending of their images, or the first of them is the name of a column.

    `header`: the cells of the first line where it was read as an image.
    """
    if any(map(IMAGE_NAME.fullmatch, paths)):
        return
    looked_at = paths[:_ROWS_LOOKED_AT]
    columns = _columns_in(header) if header else []
    there = [_there(folder / path) for path in looked_at]
    if any(there):
        if columns and not there[0] and there[1]:
            raise BadInput(
                f"{file}: the first line names columns, and none is a known name: {', '.join(header or ())}; set "
                f"{' '.join(columns)}"
            )
        return
    for place in (folder, *places_near(folder)):
        for path in looked_at:
            found = next((f"{path}{end}" for end in _ENDINGS if _there(place / f"{path}{end}")), None)
            if found is None:
                continue
            advised = [f"dataset.root={place}"] if place != folder else []
            advised += columns if path != paths[0] else []
            raise BadInput(
                f"{file}: '{brief(path)}' lacks its ending, {place / found} is there; write each path with its ending"
                f"{' and set ' if advised else ''}{' '.join(advised)}"
            )
        if any(_there(place / path) for path in looked_at):
            return
    if columns and len(paths) > 1:
        raise BadInput(
            f"{file}: there is no image '{brief(paths[1])}', with an ending or without; set dataset.root=<the folder "
            f"where paths start>, and where the first line names columns {' '.join(columns)}"
        )


def _there(path: Path) -> bool:
    """Whether it is a file; a text too long for a path, or one behind a closed folder, is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _columns_in(header: Sequence[str]) -> list[str]:
    """The words that have a first line read as names of columns."""
    label = header[1] if len(header) == 2 else "<the label's>"
    return [f"dataset.path_column={header[0]}", f"dataset.label_column={label}"]


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), (list, dict))
    except (ValueError, RecursionError):
        return text.strip() in ("[", "{")
