"""One's own images in list files: one row an image, with its path and its label."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from peftbench.data.base import DATASETS
from peftbench.data.shipped import NO_FILES_NEEDED
from peftbench.data.sources.image_lists import ImageList, listed_files, read_text, shortened
from peftbench.data.sources.labels import refuse_several
from peftbench.data.sources.list_columns import (
    IMAGE_NAME,
    LABEL_COLUMNS,
    NO_DIVISION,
    PATH_COLUMNS,
    SPLIT_COLUMNS,
    find_columns,
)
from peftbench.data.sources.own_files import Listing, OwnFiles, part_named
from peftbench.foundation.errors import BadInput, MissingInput, brief
from peftbench.foundation.location import user_path
from peftbench.foundation.spec import option

# longer ones are no class numbers, and Python reads numbers of 4,300 digits at most
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")


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
    list's folder), must lie in `root`. Labels are names, or integers throughout; with
    `classes` they are 0 to classes - 1. Columns are found by their usual names or named; without a header line the
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

    def places(self) -> list[Path]:
        lists = list(self._lists().values())
        return [user_path(self.root, "dataset.root"), *lists] if self.root else lists

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
        refuse_several(self.label, [row.label for row in rows], [row.place for row in rows])
        labels, names = label_numbers(rows, self.classes)
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
        return rows


def label_numbers(rows: Sequence[Row], classes: int | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as int64 [num_rows] and the names of the classes, in order.

    Integer labels stay as they are when `classes` is given, else the values there are get numbered in order. Raises
    `BadInput` naming the rows whose label is not like the others or out of range.
    """
    integers = [bool(_INTEGER.fullmatch(row.label)) for row in rows]
    if classes is None and not any(integers):
        names = sorted({row.label for row in rows})
        return _numbered([row.label for row in rows], names), tuple(names)
    if classes is None and 2 * sum(integers) <= len(rows):
        _refuse_rows(rows, integers, "the label must be a name", classes)
    _refuse_rows(rows, [not integer for integer in integers], "the label must be an integer", classes)
    values = [int(row.label) for row in rows]
    if classes is not None:
        outside = [not 0 <= value < classes for value in values]
        _refuse_rows(rows, outside, f"the label must be 0 to {classes - 1}", classes)
        return np.array(values, dtype=np.int64), tuple(str(label) for label in range(classes))
    _refuse_rows(rows, [value < 0 for value in values], "the label must not be negative", classes)
    present = sorted(set(values))
    return _numbered(values, present), tuple(str(value) for value in present)


def _numbered(labels: Sequence[str] | Sequence[int], names: Sequence[str] | Sequence[int]) -> np.ndarray:
    numbers = {name: number for number, name in enumerate(names)}
    return np.array([numbers[label] for label in labels], dtype=np.int64)


def _refuse_rows(rows: Sequence[Row], bad: Sequence[bool], problem: str, classes: int | None) -> None:
    wrong = [
        f"{row.place}: {problem}, got '{brief(row.label)}'" for row, is_bad in zip(rows, bad, strict=True) if is_bad
    ]
    if wrong:
        why = f"dataset.classes is {classes}" if classes is not None else "labels are all integers or all names"
        raise BadInput(f"{shortened(wrong, 'rows')}; {why}")


def _cells(file: Path) -> list[tuple[int, list[str]]]:
    """(line number, cells) of every row that is not blank."""
    text = read_text(file)
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    if delimiter not in first:
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
