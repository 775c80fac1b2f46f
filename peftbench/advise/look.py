"""A look at the data before anything is trained: how many, how even, how large, what stands twice, what leaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from peftbench.data.base import DatasetSpec, Source
from peftbench.data.sources.own_files import OwnFiles, division
from peftbench.data.verify import verify
from peftbench.foundation.errors import BadInput
from peftbench.foundation.terminal import number_of
from peftbench.tune.doubt import smallest_difference

UNEVEN = 5.0
SIZES_READ = 100


@dataclass(frozen=True)
class Look:
    """`lines`: facts in words. `warnings`: what makes the numbers worth less. `num_val`: images that choose."""

    source: Source
    lines: tuple[str, ...]
    warnings: tuple[str, ...]
    num_val: int


def dividing_words(dataset: DatasetSpec, named: Callable[[str], bool]) -> list[str]:
    """Words that divide an undivided folder of any size; none where it is divided or the words say how."""
    if not isinstance(dataset, OwnFiles) or named("dataset.num_train") or named("dataset.num_val"):
        return []
    listing = dataset.listing()
    if "all" not in listing.parts:
        return []
    total = len(listing.parts["all"].paths)
    sizes = division(total, len(listing.class_names))
    if sizes is None:
        raise BadInput(
            f"{dataset.label}: {total} images in {len(listing.class_names)} classes are too few to train, choose and "
            "test on; gather at least a few of each class"
        )
    return [f"dataset.num_train={sizes[0]}", f"dataset.num_val={sizes[1]}"]


def look(dataset: DatasetSpec, splits: tuple[str, str, str], step: Callable[[int], None] = lambda done: None) -> Look:
    """Decode every image and say what was found. `splits`: those that train, choose and test.

    Raises `BadInput` when images cannot be used, naming the first ones.
    """
    source = dataset.open()
    found = verify(source, step)
    if found.problems:
        more = f" (and {number_of(len(found.problems) - 3, 'more problem')})" if len(found.problems) > 3 else ""
        raise BadInput(
            f"{dataset.label}: {'; '.join(found.problems[:3])}{more}; mend or remove them ('data verify' lists all)"
        )
    train, val, test = (source.split(name) for name in splits)
    labels = np.concatenate([part.labels for part in (train, val, test)])
    counts = np.bincount(labels, minlength=source.num_classes)
    order = np.argsort(counts, kind="stable")
    fewest, most = int(order[0]), int(order[-1])
    sizes = np.array([train.read(int(row)).size for row in _spread(len(train), SIZES_READ)])
    lines = [
        f"{len(labels):,} images in {source.num_classes} classes: {len(train):,} train, {len(val):,} choose, "
        f"{len(test):,} are kept for the one test",
        f"fewest: {source.class_names[fewest]} ({counts[fewest]}); most: {source.class_names[most]} ({counts[most]})",
        f"size in pixels, median: {int(np.median(sizes[:, 0]))} x {int(np.median(sizes[:, 1]))}, "
        f"smallest side {int(sizes.min())}",
    ]
    warnings = [*found.doubts, *found.warnings]
    if counts[most] > UNEVEN * max(counts[fewest], 1):
        warnings.append(
            f"uneven classes: {source.class_names[most]} has {counts[most] / max(counts[fewest], 1):.0f} times as many "
            f"images as {source.class_names[fewest]}; read mean_class_accuracy beside accuracy"
        )
    warnings.append(smallest_difference(len(val)))
    return Look(source, tuple(lines), tuple(warnings), len(val))


def _spread(total: int, wanted: int) -> np.ndarray:
    return np.unique(np.linspace(0, total - 1, min(total, wanted)).astype(int))
