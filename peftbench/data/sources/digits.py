"""The real handwritten digits that come with scikit-learn: a dataset that needs no download."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from peftbench.data.base import DATASETS, DatasetSpec, Source
from peftbench.data.shipped import of_scikit_learn
from peftbench.data.splits import ArraySplit
from peftbench.data.tfds_order import hash_order
from peftbench.foundation.spec import option

_VERSION = 1
_BOUNDS = {"train800": (0, 800), "val200": (800, 1000), "train800val200": (0, 1000), "test": (1000, 1797)}


@DATASETS.add("digits")
@dataclass(frozen=True)
class Digits(DatasetSpec):
    """UCI's optical digits, 1,797 grey images of 8 x 8 pixels in 10 classes, split 800 / 200 / 797 by `seed`."""

    seed: int = option(0, ge=0)

    @property
    def label(self) -> str:
        return "digits"

    @property
    def group(self) -> str:
        return "embedded"

    def revision(self) -> str:
        return f"digits-v{_VERSION}-seed{self.seed}"

    def open(self) -> Source:
        rows = np.loadtxt(of_scikit_learn("data", "digits.csv.gz"), delimiter=",")
        images, labels = rows[:, :-1], rows[:, -1].astype(np.int64)
        order = hash_order(f"digits-seed{self.seed}:", range(len(labels)))
        # The file counts ink in 4 x 4 cells, 0 to 16.
        pixels = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
        return DigitsSource(
            class_names=tuple(str(digit) for digit in range(10)),
            membership="embedded",
            pixels="original",
            test="embedded:797",
            notes=(),
            images=pixels[order],
            labels=labels[order],
        )


@dataclass(frozen=True)
class DigitsSource(Source):
    """All digits in split order. `images`: uint8 [1797, 8, 8], `labels`: int64 [1797]."""

    images: np.ndarray
    labels: np.ndarray

    def split(self, name: str) -> ArraySplit:
        start, stop = _BOUNDS[name]
        return ArraySplit(self.images[start:stop], self.labels[start:stop])
