"""Labels as people write them: numbers and names, several in one cell, one class, classes that differ only by case."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from peftbench.data.sources.image_lists import shortened
from peftbench.foundation.errors import BadInput, brief

# longer ones are no class numbers, and Python reads numbers of 4,300 digits at most
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_PADDED = re.compile(r"[+-]?0[0-9]+")

# `0|1`, `0;1`, `[0, 1]`, `["a"]`: more than one label, or the list it would stand in
_LIST = re.compile(r"\[.*\]|\(.*\)|[+-]?\d+(\s*[|;,/]\s*[+-]?\d+)+|\d+( +\d+)+", re.DOTALL)
_BETWEEN = re.compile(r"[|;,]")


def several(label: str, known: Collection[str]) -> bool:
    """Whether a cell holds several labels. `known`: all cells, some of which are the single ones."""
    if _LIST.fullmatch(label.strip()):
        return True
    pieces = [piece.strip() for piece in _BETWEEN.split(label)]
    return len(pieces) > 1 and any(piece in known for piece in pieces)


def refuse_several(place: str, labels: Sequence[str], where: Sequence[str]) -> None:
    """Raises `BadInput` when a cell holds several labels; `where` says where each stands."""
    known = set(labels)
    bad = [index for index, label in enumerate(labels) if several(label, known)]
    if bad:
        raise BadInput(
            f"{place}: {len(bad)} of {len(labels)} images have several labels, first {where[bad[0]]}: "
            f"'{brief(labels[bad[0]])}'; a classifier takes one label an image"
        )


def refuse_one_class(place: str, names: Sequence[str]) -> None:
    """Raises `BadInput` when there is nothing to tell apart."""
    if len(names) < 2:
        only = f", '{brief(names[0])}'" if names else ""
        raise BadInput(f"{place}: only one class{only}; a classifier needs two")


def case_twins(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of class names that differ only by case."""
    first: dict[str, str] = {}
    return [(first[name.lower()], name) for name in names if first.setdefault(name.lower(), name) != name]


def label_numbers(
    labels: Sequence[str], places: Sequence[str], classes: int | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as int64 [num_rows] and the names of the classes, in order; `places` says where each label stands.

    Integer labels stay as they are when `classes` is given, else the values there are get numbered in order; where one
    has leading zeros, all keep theirs as names. Raises `BadInput` naming the rows whose label is not like the others,
    out of range, or the same number as another that is written otherwise.
    """
    integers = [bool(_INTEGER.fullmatch(label)) for label in labels]
    if classes is None and _are_names(labels, integers):
        names = sorted(set(labels))
        return _numbered(labels, names), tuple(names)
    if classes is None and 2 * sum(integers) <= len(labels):
        _refuse_rows(labels, places, integers, "the label must be a name", classes)
    _refuse_rows(labels, places, [not integer for integer in integers], "the label must be an integer", classes)
    values = [int(label) for label in labels]
    if classes is not None:
        outside = [not 0 <= value < classes for value in values]
        _refuse_rows(labels, places, outside, f"the label must be 0 to {classes - 1}", classes)
        return np.array(values, dtype=np.int64), tuple(str(label) for label in range(classes))
    _refuse_rows(labels, places, [value < 0 for value in values], "the label must not be negative", classes)
    present = sorted(set(values))
    if not any(map(_PADDED.fullmatch, labels)):
        return _numbered(values, present), tuple(str(value) for value in present)
    _refuse_number_twins(labels, places, values)
    return _numbered(values, present), tuple(sorted(set(labels), key=int))


def _are_names(labels: Sequence[str], integers: Sequence[bool]) -> bool:
    """Whether labels are names: all of them, or most rows and most classes, and no number stands in a single row.

    So 747 between A320 and DC-10 is a name, and a number that slipped into one row is a fault.
    """
    counts = Counter(labels)
    numbers = {label for label, integer in zip(labels, integers, strict=True) if integer}
    mostly = 2 * sum(integers) < len(labels) and 2 * len(numbers) < len(counts)
    return not numbers or (mostly and all(counts[number] > 1 for number in numbers))


def _numbered(labels: Sequence[str] | Sequence[int], names: Sequence[str] | Sequence[int]) -> np.ndarray:
    numbers = {name: number for number, name in enumerate(names)}
    return np.array([numbers[label] for label in labels], dtype=np.int64)


def _refuse_rows(
    labels: Sequence[str], places: Sequence[str], bad: Sequence[bool], problem: str, classes: int | None
) -> None:
    rows = zip(labels, places, bad, strict=True)
    wrong = [f"{place}: {problem}, got '{brief(label)}'" for label, place, is_bad in rows if is_bad]
    if not wrong:
        return
    why = f"dataset.classes is {classes}"
    if classes is None:
        why = "labels are all integers or all names; correct these, or write numbers that are names as words ('no 747')"
    raise BadInput(f"{shortened(wrong, 'rows')}; {why}")


def _refuse_number_twins(labels: Sequence[str], places: Sequence[str], values: Sequence[int]) -> None:
    """Raises `BadInput` where one number is written in two ways, which may be one class or two."""
    first: dict[int, int] = {}
    for row, value in enumerate(values):
        other = first.setdefault(value, row)
        if labels[other] != labels[row]:
            raise BadInput(
                f"{places[other]} has the label '{brief(labels[other])}' and {places[row]} '{brief(labels[row])}', the "
                "same number; write one class alike in all rows, or set dataset.classes=N where labels are 0 to N - 1"
            )
