"""Labels as people write them: several in one cell, a single class, classes that differ only by case."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from peftbench.foundation.errors import BadInput, brief

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
