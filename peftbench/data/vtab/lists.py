"""The list files of a processed VTAB-1k folder."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from peftbench.data.sources.image_lists import ImageList, path_problem, read_text, shortened
from peftbench.foundation.errors import BadInput

_INTEGER = re.compile(r"-?[0-9]+")


def read_list(path: Path, num_classes: int) -> ImageList:
    """Parse `path`: one image a line, the relative path and the label separated by the last space.

    Raises `BadInput` naming the first offending lines: no label, a label that is not an integer or not below
    `num_classes`, a path that leaves the task folder, a path listed twice.
    """
    text = read_text(path)
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
        raise BadInput(f"{path}: {shortened(problems)}")
    return ImageList(tuple(first_line), np.array(labels, dtype=np.int64))


def _line_problem(name: str, label: str, num_classes: int) -> str | None:
    if not name:
        return f"expected '<path> <label>', got '{label}'"
    if not _INTEGER.fullmatch(label):
        return f"the label must be an integer, got '{label}'"
    if not 0 <= int(label) < num_classes:
        return f"the label must be 0 to {num_classes - 1}, got {label}"
    return path_problem(name)
