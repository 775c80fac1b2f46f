"""One's own images in list files: one row an image, with its path and its label."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peftbench.data.base import DATASETS
from peftbench.data.shipped import NO_FILES_NEEDED
from peftbench.data.sources.image_lists import ImageList, address_problem, listed_files, read_text, shortened
from peftbench.data.sources.labels import label_numbers, refuse_several
from peftbench.data.sources.list_columns import (
    IMAGE_NAME,
    LABEL_COLUMNS,
    NO_DIVISION,
    PATH_COLUMNS,
    SPLIT_COLUMNS,
    find_columns,
)
from peftbench.data.sources.no_lists import refuse_bars, refuse_json, refuse_without_endings
from peftbench.data.sources.own_files import Listing, OwnFiles, part_named
from peftbench.foundation.errors import BadInput, MissingInput
from peftbench.foundation.location import user_path
from peftbench.foundation.spec import option


@dataclass(frozen=True)
class Row:
    """One image as it is listed. `place`: file and line, for messages."""

    part: str
    path: str
    label: str
    place: str


@DATASETS.add("csv")
@dataclass(frozen=True)
class CsvFiles(OwnFiles):
    """`path`: one list with a split column or without; or `train`, `test` and perhaps `val`: a list for each part.

    Cells are separated by commas, semicolons, tabs, or, where the first line has none of these, by blanks. Image paths
    are relative to the folder of the list, or to `root`; absolute ones, and those that begin with `..` (from the
    list's folder), must lie in `root`. Labels are names, or integers throughout; with `classes` they are 0 to classes
    - 1. Numbers among names are names. Columns are found by their usual names or named; without a header line the
    first is the path, the second the label and the third, if there is one, the part. A column of names of parts is
    read or refused; `split_column=none` says that there is no division in it.
    """

    path: str | None = option(None, location=True)
    train: str | None = option(None, location=True)
    val: str | None = option(None, location=True)
    test: str | None = option(None, location=True)
    root: str | None = option(None, location=True)
    path_column: str | None = option(None)
    label_column: str | None = option(None)
    split_column: str | None = option(None)
    classes: int | None = option(None, ge=2, le=100_000)

    def problems(self) -> Sequence[str]:
        if self.path is not None and (self.train or self.val or self.test):
            return ["dataset.path and dataset.train, dataset.val, dataset.test exclude each other"]
        if self.path is None and (self.train is None) != (self.test is None):
            return ["dataset.train and dataset.test go together"]
        if self.path is None and self.train and self.split_column not in (None, NO_DIVISION):
            return [
                f"dataset.split_column={self.split_column} is of one list with all parts (dataset.path=FILE); leave it "
                "out where dataset.train and dataset.test name a list each"
            ]
        return []

    @property
    def label(self) -> str:
        first = self.path or self.train
        return self.title or (Path(first).stem if first else "csv")

    def inputs(self) -> list[Path]:
        listing = self.listing()
        return [*self._lists().values(), *listed_files(listing.folder, listing.parts)]

    def names_apart(self) -> tuple[str, ...]:
        return self.listing().class_names

    def places(self) -> list[Path]:
        lists = list(self._lists().values())
        return [user_path(self.root, "dataset.root"), *lists] if self.root else lists

    def kept_clear(self) -> list[Path]:
        # no more is read than the list names, whatever lies beside it
        return list(filter(Path.is_file, self.inputs()))

    def listing(self) -> Listing:
        lists = self._lists()
        folder = user_path(self.root, "dataset.root") if self.root else next(iter(lists.values())).parent
        if not folder.is_dir():
            raise MissingInput(f"dataset.root={self.root}: there is no such folder; paths in the list start there")
        if not self.root and len({path.resolve().parent for path in lists.values()}) > 1:
            raise BadInput("the lists lie in different folders; set dataset.root=<folder where image paths start>")
        rows = [row for part, path in lists.items() for row in self._read(part, path, folder)]
        if not rows:
            raise BadInput(f"{', '.join(map(str, lists.values()))}: no images listed")
        written, places = [row.label for row in rows], [row.place for row in rows]
        refuse_several(self.label, written, places)
        labels, names = label_numbers(written, places, self.classes)
        by_part: dict[str, list[int]] = {}
        for index, row in enumerate(rows):
            by_part.setdefault(row.part, []).append(index)
        if "all" not in by_part:
            _check_parts(by_part, lists)
        parts: dict[str, ImageList] = {
            part: ImageList(tuple(rows[index].path for index in by_part[part]), labels[by_part[part]])
            for part in ("all", "train", "val", "test")
            if part in by_part
        }
        return Listing(folder, names, parts)

    def _lists(self) -> dict[str, Path]:
        """Part -> list file; `all` -> the only one."""
        given = {"all": self.path, "train": self.train, "val": self.val, "test": self.test}
        lists = {
            part: user_path(path, f"dataset.{'path' if part == 'all' else part}")
            for part, path in given.items()
            if path
        }
        if not lists:
            raise MissingInput(
                "set dataset.path=<list file with a path and a label column>, or dataset.train=... and "
                "dataset.test=...; image paths are relative to the list.",
                instead=NO_FILES_NEEDED,
                same_line=True,
            )
        for part, path in lists.items():
            if not path.is_file():
                what = "it is a folder" if path.is_dir() else "there is no such file"
                name = "path" if part == "all" else part
                raise MissingInput(f"dataset.{name}={path}: {what}; it takes a list file (path,label a row)")
        return lists

    def _read(self, part: str, file: Path, folder: Path) -> list[Row]:
        """The rows of one list, their paths from `folder`. Raises `BadInput` naming the first offending lines."""
        lines = _cells(file)
        named = {"path": self.path_column, "label": self.label_column, "split": self.split_column}
        columns, body = find_columns(file, lines, named, part)
        header = [cell.strip() for cell in lines[0][1]] if body is lines and lines else None
        rows: list[Row] = []
        problems: list[str] = []
        outside: list[tuple[int, str]] = []
        first_line: dict[str, int] = {}
        width = len(lines[0][1]) if lines else 0
        for number, cells in body:
            row, problem = _row(part, file, number, cells, columns)
            if any(cell.strip() for cell in cells[width:]):
                problem = (
                    f"{len(cells)} cells where the first line has {width}; a separator within a cell takes quotes "
                    f"around the cell, got '{','.join(cells)}'"
                )
            if problem is None and (row.path.startswith("/") or row.path.split("/")[0] == ".."):
                place = os.path.normpath(file.absolute().parent / row.path)
                inside = os.path.relpath(place, folder.absolute())
                if inside.split("/")[0] == "..":
                    outside.append((number, place))
                row = dataclasses.replace(row, path=inside)
            if problem is None and row.path in first_line:
                problem = f"'{row.path}' is already on line {first_line[row.path]}"
            if problem is not None:
                problems.append(f"line {number}: {problem}")
                continue
            first_line[row.path] = number
            rows.append(row)
        if problems:
            raise BadInput(f"{file}: {shortened(problems)}")
        if outside:
            common = os.path.commonpath([os.path.dirname(place) for _, place in outside])  # noqa: PTH120
            raise BadInput(
                f"{file}: {len(outside)} of {len(rows)} image paths lead out of {folder}, first {outside[0][1]} on "
                f"line {outside[0][0]}; set dataset.root={common}"
            )
        refuse_without_endings(file, folder, [row.path for row in rows], header)
        return rows


def _cells(file: Path) -> list[tuple[int, list[str]]]:
    """(line number, cells) of every row that is not blank."""
    text = read_text(file)
    refuse_json(file, text)
    first, _, rest = text.partition("\n")
    delimiter = max(",;\t", key=first.count)
    if delimiter not in first:
        refuse_bars(file, first, rest.partition("\n")[0])
        numbered = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
        found = [(number, _blank_separated(line)) for number, line in numbered]
        # names of columns, known or not: each is a word
        if len(numbered) > 1 and [bool(IMAGE_NAME.match(line)) for _, line in numbered[:2]] == [False, True]:
            found[0] = (numbered[0][0], numbered[0][1].split())
        return found
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append((reader.line_num, cells))
    except csv.Error as error:
        raise BadInput(f"{file}: line {reader.line_num}: not a row of a list ({error})") from error
    return rows


def _blank_separated(line: str) -> list[str]:
    """Path, label and perhaps part of a line without separators but blanks: `a b.jpg 3`, `a.jpg 3 train`."""
    if {word.lower() for word in line.split()} <= {*PATH_COLUMNS, *LABEL_COLUMNS, *SPLIT_COLUMNS}:
        return line.split()
    match = IMAGE_NAME.match(line.strip())
    rest = line.strip()[match.end() :].split() if match else []
    if not match or not rest:
        return line.strip().rsplit(None, 1)
    if len(rest) == 2 and part_named(rest[1]):
        return [match[0], *rest]
    return [match[0], " ".join(rest)]


def _row(part: str, file: Path, number: int, cells: list[str], columns: dict[str, int]) -> tuple[Row, str | None]:
    """The row, and what is wrong with it."""
    values = {what: cells[place].strip() if place < len(cells) else "" for what, place in columns.items()}
    # lists made under Windows
    path = values["path"].replace("\\", "/")
    problem = f"the path cannot be used, got '{path}'" if "\0" in path or path[1:2] == ":" else None
    problem = address_problem(path) if "://" in path else problem
    if not path or not values["label"]:
        problem = f"expected a path and a label, got '{','.join(cells)}'"
    if "split" in values:
        part = part_named(values["split"]) or ""
        if not part:
            problem = problem or f"the part must be train, val or test, got '{values['split']}'"
    return Row(part, posixpath.normpath(path), values["label"], f"{file} line {number}"), problem


def _check_parts(by_part: dict[str, list[int]], lists: dict[str, Path]) -> None:
    absent = [part for part in ("train", "test") if part not in by_part]
    if absent:
        raise BadInput(
            f"{', '.join(map(str, lists.values()))}: no image is listed as {' or '.join(absent)}; "
            f"list some, or set dataset.split_column={NO_DIVISION} to have the images divided"
        )
