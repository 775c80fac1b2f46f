"""A whole dataset looked at image by image: everything that is wrong with it, in one list."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from peftbench.data.base import RawSplit, Source
from peftbench.foundation.cores import available_cores
from peftbench.foundation.errors import PeftbenchError

_SHOWN = 5


@dataclass(frozen=True)
class Findings:
    """`problems` make the data unusable, `doubts` its numbers: pictures of test in train, or under two labels.

    `warnings` a reader of its numbers should know; `facts` describe it. Published data sets raise some doubts as well.
    """

    problems: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)


def verify(source: Source, step: Callable[[int], None] = lambda done: None) -> Findings:
    """Decode every image of every split and check counts, labels, copies and unions; `step` is told of progress."""
    found = Findings(warnings=list(source.notes))
    splits = {name: source.split(name) for name in source.whole_splits}
    pixels: dict[str, list[str | None]] = {}
    for name, split in splits.items():
        _check_labels(name, split, source.num_classes, found)
        pixels[name] = _pixel_digests(name, split, found, step)
        num_classes = len(np.unique(split.labels))
        # every image of a split can only be hashed once all are readable
        digest = "not computed, images are missing" if None in pixels[name] else split.content_digest()[:16]
        found.facts.append(
            f"{name}: {len(split):,} images, {num_classes} of {source.num_classes} classes, sha256 {digest}"
        )
    _check_union(source, splits, pixels, found)
    _check_copies(source, splits, pixels, found)
    _check_classes(splits, source, found)
    return found


def _check_labels(name: str, split: RawSplit, num_classes: int, found: Findings) -> None:
    if len(split) == 0:
        found.problems.append(f"{name}: no images")
    wrong = np.flatnonzero((split.labels < 0) | (split.labels >= num_classes))
    if len(wrong):
        first = ", ".join(f"{split.describe(int(row))} has {split.labels[row]}" for row in wrong[:3])
        found.problems.append(f"{name}: {len(wrong)} labels outside 0 to {num_classes - 1}: {first}")


def _pixel_digests(name: str, split: RawSplit, found: Findings, step: Callable[[int], None]) -> list[str | None]:
    """SHA-256 of every decoded picture; None, and a problem that names it, for one that cannot be decoded."""

    def digest(index: int) -> str | PeftbenchError:
        try:
            image = split.read(index)
        except PeftbenchError as error:
            return error
        finally:
            step(1)
        return hashlib.sha256(f"{image.mode}{image.size}".encode() + image.tobytes()).hexdigest()

    with ThreadPoolExecutor(max_workers=available_cores()) as pool:
        results = list(pool.map(digest, range(len(split))))
    found.problems.extend(f"{name}: {result}" for result in results if isinstance(result, PeftbenchError))
    return [None if isinstance(result, PeftbenchError) else result for result in results]


def _check_union(
    source: Source, splits: dict[str, RawSplit], pixels: dict[str, list[str | None]], found: Findings
) -> None:
    train, val, both, _ = source.whole_splits

    def counted(*names: str) -> Counter[tuple[str | None, int]]:
        return Counter(pair for name in names for pair in zip(pixels[name], splits[name].labels.tolist(), strict=True))

    if counted(train, val) != counted(both):
        found.problems.append(f"{both} does not hold exactly the images and labels of {train} and {val}")


def _check_copies(
    source: Source, splits: dict[str, RawSplit], pixels: dict[str, list[str | None]], found: Findings
) -> None:
    """Equal pictures: across splits they leak, under two labels one is wrong, else they only weigh twice."""
    where: dict[str, list[tuple[str, int]]] = {}
    train, val, _, test = source.whole_splits
    for name in (train, val, test):
        for row, digest in enumerate(pixels[name]):
            if digest is not None:
                where.setdefault(digest, []).append((name, row))
    across: dict[tuple[str, str], list[str]] = {}
    within: dict[str, list[str]] = {}
    contrary: list[str] = []
    for places in where.values():
        for place in places[1:]:
            (name, row), (other, other_row) = places[0], place
            pair = f"{splits[name].describe(row)} = {splits[other].describe(other_row)}"
            labels = int(splits[name].labels[row]), int(splits[other].labels[other_row])
            if labels[0] != labels[1]:
                contrary.append(f"{pair} ({' and '.join(_class_name(source, label) for label in labels)})")
            (within.setdefault(name, []) if name == other else across.setdefault((name, other), [])).append(pair)
    for (name, other), pairs in across.items():
        found.doubts.append(f"{len(pairs)} pictures of {other} are also in {name}: {_some(pairs)}")
    if contrary:
        found.doubts.append(f"{len(contrary)} pictures stand under two labels: {_some(contrary)}")
    for name, pairs in within.items():
        found.warnings.append(f"{len(pairs)} pictures stand twice in {name}: {_some(pairs)}")


def _class_name(source: Source, label: int) -> str:
    return source.class_names[label] if 0 <= label < source.num_classes else str(label)


def _check_classes(splits: dict[str, RawSplit], source: Source, found: Findings) -> None:
    present = {name: set(split.labels.tolist()) for name, split in splits.items()}
    names = dict(enumerate(source.class_names))
    both = source.whole_splits[2]
    unseen = sorted(present["test"] - present[both])
    if unseen:
        shown = _some([str(names.get(label, label)) for label in unseen])
        found.warnings.append(f"{len(unseen)} classes are in test and not in {both}: {shown}")
    untested = sorted(set(names) - present["test"])
    if untested:
        found.warnings.append(
            f"{len(untested)} classes have no test image: {_some([names[label] for label in untested])}"
        )


def _some(items: list[str]) -> str:
    return ", ".join(items[:_SHOWN]) + (", ..." if len(items) > _SHOWN else "")
