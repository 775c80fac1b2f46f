"""The list files of a processed VTAB-1k folder: parsing, and the check that every listed image is there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from peftbench.errors import BadInput

_INTEGER = re.compile(r"-?[0-9]+")


@dataclass(frozen=True)
class ImageList:
    """One list file. `paths`: relative to the task folder, in order; `labels`: int64 [num_images]."""

    paths: tuple[str, ...]
    labels: np.ndarray

    def __add__(self, other: ImageList) -> ImageList:
        return ImageList(self.paths + other.paths, np.concatenate([self.labels, other.labels]))


def read_list(path: Path, num_classes: int) -> ImageList:
    """Parse `path`: one image a line, the relative path and the label separated by the last space.

    Raises `BadInput` naming the first offending lines: no label, a label that is not an integer or not below
    `num_classes`, a path that leaves the task folder, a path listed twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from error
    problems: list[str] = []
    first_line: dict[str, int] = {}
    labels: list[int] = []
    # Only line feeds end a line: str.splitlines would also cut names at form feeds and Unicode separators.
    for number, line in enumerate(text.rstrip().split("\n") if text.strip() else [], start=1):
        name, _, label = line.strip().rpartition(" ")
        problem = _line_problem(name, label, num_classes)
        if problem is None and name in first_line:
            problem = f"'{name}' is already on line {first_line[name]}"
        if problem is not None:
            problems.append(f"line {number}: {problem}")
            continue
        first_line[name] = number
        labels.append(int(label))
    if problems:
        more = f" (and {len(problems) - 3} more lines)" if len(problems) > 3 else ""
        raise BadInput(f"{path}: {'; '.join(problems[:3])}{more}")
    return ImageList(tuple(first_line), np.array(labels, dtype=np.int64))


def _line_problem(name: str, label: str, num_classes: int) -> str | None:
    if not name:
        return f"expected '<path> <label>', got '{label}'"
    if not _INTEGER.fullmatch(label):
        return f"the label must be an integer, got '{label}'"
    if not 0 <= int(label) < num_classes:
        return f"the label must be 0 to {num_classes - 1}, got {label}"
    if "\0" in name or name[0] in "/\\" or name[1:2] == ":":
        return f"the path must be relative to the task folder, got '{name}'"
    if ".." in name and ".." in re.split(r"[/\\]", name):
        return f"the path must stay inside the task folder, got '{name}'"
    return None


def image_sizes(folder: Path, names: Iterable[str]) -> dict[str, int]:
    """Size in bytes of every listed image, by one scan of each directory the lists name.

    Raises `BadInput` when images are missing, empty, or links that lead outside `folder`.
    """
    inside = os.path.realpath(folder)
    found: dict[str, dict[str, int]] = {}
    sizes: dict[str, int | None] = {}
    for name in names:
        parent, _, file = name.rpartition("/")
        if parent not in found:
            found[parent] = _scan(folder / parent, inside)
        sizes[name] = found[parent].get(file)
    for problem, bad in (
        ("are missing", [name for name, size in sizes.items() if size is None]),
        ("are empty (0 bytes)", [name for name, size in sizes.items() if size == 0]),
    ):
        if bad:
            raise BadInput(
                f"{folder}: {len(bad)} of {len(sizes)} listed images {problem}: {', '.join(bad[:3])}"
                f"{', ...' if len(bad) > 3 else ''}; copy the task folder again"
            )
    return {name: size for name, size in sizes.items() if size is not None}


def _scan(directory: Path, inside: str) -> dict[str, int]:
    """File name -> size of what lies in `directory`; empty when there is no such directory."""
    _refuse_outside(directory, inside)
    sizes = {}
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_symlink():
                    _refuse_outside(Path(entry.path), inside)
                if entry.is_file():
                    sizes[entry.name] = entry.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise BadInput(f"{directory}: cannot be read ({error.strerror})") from error
    return sizes


def _refuse_outside(path: Path, inside: str) -> None:
    target = os.path.realpath(path)
    if os.path.commonpath([target, inside]) != inside:
        raise BadInput(f"{path}: links outside the task folder, to {target}; put the file itself there")
