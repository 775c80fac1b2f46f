"""Which columns of a list hold paths, labels and the parts of a division: by usual names, by choice or by place."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from peftbench.data.sources.own_files import of_parts_alone, part_in, part_named
from peftbench.foundation.errors import BadInput, did_you_mean

PATH_COLUMNS = ("path", "filepath", "file_path", "file", "filename", "file_name", "image", "image_path", "img")
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "target")
SPLIT_COLUMNS = ("split", "part", "set", "subset", "partition")
# said of `split_column`: the list is not divided, whatever its columns hold
NO_DIVISION = "none"
IMAGE_NAME = re.compile(r".*?\.(?:jpe?g|jfif|png|bmp|gif|webp|tiff?|ppm|pgm)", re.IGNORECASE)

# words of a column that divides rows: train, val and test of two kinds, extra and unlabelled ones
_MOST_PARTS = 8
_YES_OR_NO = frozenset(("0", "1", "false", "true", "no", "yes", "f", "t", "n", "y"))

# of every row that is not blank the number of its line and its cells
Lines = list[tuple[int, list[str]]]


def find_columns(file: Path, lines: Lines, named: Mapping[str, str | None], part: str) -> tuple[dict[str, int], Lines]:
    """Where path, label and perhaps split stand, and the lines below the header.

    `named`: path, label and split -> the column that was chosen for it. `part`: whose list it is; `all` where it may be
    divided itself. Raises `BadInput` for columns that are not there, for two of which either may be meant, and for a
    division that would not be read.
    """
    header = [cell.strip() for cell in lines[0][1]] if lines else []
    undivided = named["split"] == NO_DIVISION and NO_DIVISION not in header
    usual = {"path": PATH_COLUMNS, "label": LABEL_COLUMNS}
    if part == "all" and not undivided:
        usual["split"] = SPLIT_COLUMNS
    lower = [cell.lower() for cell in header]
    found: dict[str, int] = {}
    for what, names in usual.items():
        wanted = named[what]
        if wanted is not None and wanted not in header:
            raise BadInput(
                f"{file}: no column '{wanted}' (dataset.{what}_column); columns are {', '.join(header)}"
                f"{did_you_mean(wanted, header).partition('; known')[0]}"
            )
        fitting = [wanted] if wanted else names
        cells = header if wanted else lower
        taken = [named[other] for other in usual if other != what]
        places = [
            place
            for name in fitting
            for place, cell in enumerate(cells)
            if cell == name and (wanted or header[place] not in taken)
        ]
        if what == "split" and not wanted:
            # columns of these names may hold something else, such as where an image is from
            places = [place for place in places if any(_parts_in(lines[1:], place))] or places[:1]
        if places:
            found[what] = places[0]
        _refuse_two(file, lines, what, places)
    if {"path", "label"} <= set(found):
        body = lines[1:]
    elif found or any(named[what] for what in usual):
        lacking = "path" if "path" not in found else "label"
        division = _advised(header, _divisions(header, lines[1:], found), "split" in usual and "split" not in found)
        raise BadInput(
            f"{file}: no {lacking} column among {', '.join(header)}; set dataset.{lacking}_column=<its name>{division}"
        )
    else:
        _refuse_unknown_header(file, lines, header, "split" in usual)
        header, body = [f"column {place + 1}" for place in range(len(header))], lines
        found = {what: place for place, what in enumerate(usual) if place < max(len(header), 2)}
    # a division that was named, or stands in its place in a list without names, is the one that holds
    if not undivided and not (part == "all" and (named["split"] or body is lines)):
        _refuse_unread_division(file, header, body, found, part)
    return found, body


def _refuse_two(file: Path, lines: Lines, what: str, places: Sequence[int]) -> None:
    """Raises `BadInput` when columns that differ may all be the one that is looked for.

    Labels do not differ where each of one column goes with one of the other, as numbers of classes do with their names,
    and names of parts do not where they are of one part.
    """
    for other in places[1:]:
        pairs = {(_cell(cells, places[0]), _cell(cells, other)) for _, cells in lines[1:]}
        if what == "label":
            differ = len(pairs) > min(len({pair[at] for pair in pairs}) for at in (0, 1))
        elif what == "split":
            differ = _parts_in(lines[1:], places[0]) != _parts_in(lines[1:], other)
        else:
            differ = any(one != another for one, another in pairs)
        if not differ:
            continue
        names = [lines[0][1][place].strip() for place in (places[0], other)]
        if names[0] == names[1]:
            raise BadInput(f"{file}: two columns that differ are called '{names[0]}'; give one of them another name")
        raise BadInput(
            f"{file}: '{names[0]}' and '{names[1]}' differ and may both be the {what} column; set "
            f"dataset.{what}_column={names[0]} or dataset.{what}_column={names[1]}"
        )


def _refuse_unread_division(file: Path, header: list[str], body: Lines, found: Mapping[str, int], part: str) -> None:
    """Raises `BadInput` for a column that divides the rows in another way than they are going to be."""
    read = _parts_in(body, found["split"]) if "split" in found else None
    if read is None and (flag := _flag(header, body, found)) is not None:
        raise BadInput(
            f"{file}: '{flag}' says of rows whether they are of a part and is not read; write train, val or test into"
            " a column of one list (dataset.path=FILE dataset.split_column=NAME), or set "
            f"dataset.split_column={NO_DIVISION} if it is no division"
        )
    unread = [place for place in _divisions(header, body, found) if _parts_in(body, place) != read]
    if not unread:
        return
    name = header[unread[0]]
    if part != "all":
        advice = f"and dataset.{part} names the whole list; name one list with all parts with dataset.path=FILE"
    elif read is None:
        advice = f"and is not read; set dataset.split_column={name}"
    else:
        read_as = header[found["split"]]
        advice = f"other than those in '{read_as}'; set dataset.split_column={read_as} or dataset.split_column={name}"
    raise BadInput(
        f"{file}: '{name}' holds names of parts {advice}, or dataset.split_column={NO_DIVISION} if it is no division"
    )


def _divisions(header: Sequence[str], body: Lines, found: Mapping[str, int]) -> list[int]:
    """The columns beside those that are read that divide the rows: they name parts alone, or few words and two parts.

    Of the words test has to be one: train, extra and test are a division, and so are train1 and test1.
    """
    others = [place for place in range(len(header)) if place not in found.values()]
    return [place for place in others if _divides(_words_in(body, place))]


def _divides(words: set[str]) -> bool:
    parts = {_part(word) for word in words}
    if None not in parts:
        return len(parts) > 1
    spoken = {part_in(word) for word in words if of_parts_alone(word)}
    return len(words) <= _MOST_PARTS and "test" in spoken and len(spoken) > 1


def _words_in(body: Lines, place: int) -> set[str]:
    """What the cells of a column hold, in lower case, without empty ones."""
    return {cells[place].strip().lower() for _, cells in body if place < len(cells)} - {""}


def _flag(header: Sequence[str], body: Lines, found: Mapping[str, int]) -> str | None:
    """The column beside those that are read which says yes of some rows and no of others, as `is_valid` does."""
    for place, name in enumerate(header):
        if place not in found.values() and part_named(re.sub("^is[ _-]?", "", name.lower())):
            said = _words_in(body, place)
            if len(said) == 2 and said <= _YES_OR_NO:
                return name
    return None


def _parts_in(body: Lines, place: int) -> list[str | None]:
    """The part that each row of a column names; "" where a cell is empty, None where it holds something else."""
    found = (_cell(cells, place) for _, cells in body)
    known: dict[str, str | None] = {"": ""}
    return [known[cell] if cell in known else known.setdefault(cell, _part(cell)) for cell in found]


def _cell(cells: Sequence[str], place: int) -> str:
    """What a row holds in a column; "" where it is too short."""
    return cells[place].strip() if place < len(cells) else ""


def _part(cell: str) -> str | None:
    """The part that a cell names; words that are none of ours, such as eval, are there as they are."""
    return part_named(cell) or (part_in(cell) if cell.isalpha() else None)


def _refuse_unknown_header(file: Path, lines: Lines, header: list[str], may_split: bool) -> None:
    """Raises `BadInput` when the first line holds no image's path and the second does: names of columns not known."""
    if len(lines) < 2 or any(IMAGE_NAME.fullmatch(cell) for cell in header):
        return
    places = [place for place, cell in enumerate(lines[1][1]) if IMAGE_NAME.fullmatch(cell.strip())]
    if not places or places[0] >= len(header):
        return
    parts = _divisions(header, lines[1:], {"path": places[0]})
    others = [name for place, name in enumerate(header) if place not in (places[0], *parts)]
    label = others[0] if len(others) == 1 else "<the label's>"
    raise BadInput(
        f"{file}: the first line names columns, and none is a known name: {', '.join(header)}; set "
        f"dataset.path_column={header[places[0]]} dataset.label_column={label}{_advised(header, parts, may_split)}"
    )


def _advised(header: Sequence[str], divisions: Sequence[int], may_split: bool) -> str:
    """The word that has a division read, behind others."""
    return f" dataset.split_column={header[divisions[0]]}" if divisions and may_split else ""
