"""A whole dataset looked at image by image: everything that is wrong with it, in one list."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from peftbench.data.base import Source
from peftbench.data.boxes import boxes_problem
from peftbench.data.maps import classes_in, map_problem
from peftbench.data.raw import RawSplit
from peftbench.foundation.cores import available_cores
from peftbench.foundation.errors import PeftbenchError
from peftbench.foundation.maps import BOXES
from peftbench.foundation.terminal import number_of

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


@dataclass(frozen=True)
class Look:
    """What one sample showed: the SHA-256 of its picture or of all frames of its clip, None where it cannot be decoded,
    the classes in it, and whether a frame stands in its clip twice.
    """

    digest: str | None
    classes: frozenset[int]
    repeats: bool = False


Looks = dict[str, list[Look]]


def verify(source: Source, step: Callable[[int], None] = lambda done: None) -> Findings:
    """Decode every image of every split and check counts, labels, maps, copies and unions; `step` hears of progress."""
    found = Findings(warnings=list(source.notes))
    splits = {name: source.split(name) for name in source.whole_splits}
    looks: Looks = {}
    for name, split in splits.items():
        if not split.maps:
            _check_labels(name, split, source.num_classes, found)
        elif len(split) == 0:
            found.problems.append(f"{name}: no images")
        # what the union of train and val holds was named there
        union = name == source.whole_splits[2]
        told = {line.partition(": ")[2] for line in found.problems} if union else set()
        looks[name] = _look(name, split, source.num_classes, found, step, told, union)
        if not union:
            _check_lengths(name, split, looks[name], found)
        num_classes = len(frozenset().union(*(look.classes for look in looks[name])))
        # every image of a split can only be hashed once all are readable
        whole = all(look.digest for look in looks[name])
        digest = split.content_digest()[:16] if whole else "not computed, not every image can be read"
        with_maps = f" with {', '.join(split.maps)}" if split.maps else ""
        found.facts.append(
            f"{name}: {len(split):,} images{with_maps}, {num_classes} of {source.num_classes} classes, sha256 {digest}"
        )
    _check_union(source, splits, looks, found)
    _check_copies(source, splits, looks, found)
    _check_classes(looks, source, found)
    return found


def _check_labels(name: str, split: RawSplit, num_classes: int, found: Findings) -> None:
    if len(split) == 0:
        found.problems.append(f"{name}: no images")
    wrong = np.flatnonzero((split.labels < 0) | (split.labels >= num_classes))
    if len(wrong):
        first = ", ".join(f"{split.describe(int(row))} has {split.labels[row]}" for row in wrong[:3])
        found.problems.append(f"{name}: {len(wrong)} labels outside 0 to {num_classes - 1}: {first}")


def _look(
    name: str,
    split: RawSplit,
    num_classes: int,
    found: Findings,
    step: Callable[[int], None],
    told: set[str],
    union: bool,
) -> list[Look]:
    """Every image with its maps; a problem that names it for one that cannot be decoded or has a wrong map."""

    def look(index: int) -> tuple[Look, list[str]]:
        try:
            # one frame of a clip does not tell it from others: opposite motions share it
            pictures = split.read_clip(index)
        except PeftbenchError as error:
            return Look(None, _classes_of(split, index)), [str(error)]
        finally:
            step(1)
        content = hashlib.sha256()
        for picture in pictures:
            content.update(f"{picture.mode}{picture.size}".encode() + picture.tobytes())
        if not split.maps:
            repeats = len(set(map(id, pictures))) < len(pictures)
            # those of the union are in train and val
            problems = [] if union else _unshown_problems(split, index)
            return Look(content.hexdigest(), _classes_of(split, index), repeats), problems
        [image] = pictures
        classes, problems = _maps_of(split, index, (image.height, image.width), num_classes)
        return Look(content.hexdigest(), classes), problems

    with ThreadPoolExecutor(max_workers=available_cores()) as pool:
        results = list(pool.map(look, range(len(split))))
    found.problems.extend(
        f"{name}: {problem}" for _, problems in results for problem in problems if problem not in told
    )
    return [seen for seen, _ in results]


def _unshown_problems(split: RawSplit, index: int) -> list[str]:
    """What is wrong with the frames of a clip that are not shown: the first that cannot be decoded."""
    try:
        for _ in split.unshown(index):
            pass
    except PeftbenchError as error:
        return [str(error)]
    return []


def _check_lengths(name: str, split: RawSplit, looks: list[Look], found: Findings) -> None:
    short = [split.describe(row) for row, look in enumerate(looks) if look.repeats]
    if short:
        words = "clip shows a frame" if len(short) == 1 else "clips show a frame"
        found.warnings.append(
            f"{name}: {len(short)} {words} twice, since the file is too short for {split.frames} frames: {_some(short)}"
        )


def _classes_of(split: RawSplit, index: int) -> frozenset[int]:
    return frozenset() if split.maps else frozenset([int(split.labels[index])])


def _maps_of(split: RawSplit, index: int, size: tuple[int, int], num_classes: int) -> tuple[frozenset[int], list[str]]:
    """The classes in an image's maps, and what is wrong with them."""
    classes: frozenset[int] = frozenset()
    problems = []
    for name in split.maps:
        try:
            values = split.read_map(name, index)
        except PeftbenchError as error:
            problems.append(str(error))
            continue
        if name == BOXES:
            problem = boxes_problem(values, num_classes, size[::-1])
        else:
            problem = map_problem(name, values, num_classes)
        if name != BOXES and values.shape[-2:] != size:
            problem = (
                f"its {name} has {values.shape[-1]} x {values.shape[-2]} pixels and the image {size[1]} x {size[0]}"
            )
        if problem:
            problems.append(f"{split.describe(index)}: {problem}")
        else:
            classes |= classes_in(name, values)
    return classes, problems


def _check_union(source: Source, splits: dict[str, RawSplit], looks: Looks, found: Findings) -> None:
    train, val, both, _ = source.whole_splits

    def counted(*names: str) -> Counter[tuple[str | None, int]]:
        return Counter(
            (look.digest, label)
            for name in names
            for look, label in zip(looks[name], splits[name].labels.tolist(), strict=True)
        )

    if counted(train, val) != counted(both):
        found.problems.append(f"{both} does not hold exactly the images and labels of {train} and {val}")


def _check_copies(source: Source, splits: dict[str, RawSplit], looks: Looks, found: Findings) -> None:
    """Equal pictures: across splits they leak, under two labels one is wrong, else they only weigh twice."""
    where: dict[str, list[tuple[str, int]]] = {}
    train, val, _, test = source.whole_splits
    for name in (train, val, test):
        for row, look in enumerate(looks[name]):
            if look.digest is not None:
                where.setdefault(look.digest, []).append((name, row))
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
        are = "is" if len(pairs) == 1 else "are"
        found.doubts.append(f"{number_of(len(pairs), 'picture')} of {other} {are} also in {name}: {_some(pairs)}")
    if contrary:
        found.doubts.append(f"{_standing(contrary)} under two labels: {_some(contrary)}")
    for name, pairs in within.items():
        found.warnings.append(f"{_standing(pairs)} twice in {name}: {_some(pairs)}")


def _standing(pairs: list[str]) -> str:
    return f"{number_of(len(pairs), 'picture')} {'stands' if len(pairs) == 1 else 'stand'}"


def _class_name(source: Source, label: int) -> str:
    return source.class_names[label] if 0 <= label < source.num_classes else str(label)


def _check_classes(looks: Looks, source: Source, found: Findings) -> None:
    present = {name: set().union(*(look.classes for look in seen)) for name, seen in looks.items()}
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
