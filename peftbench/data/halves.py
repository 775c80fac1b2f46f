"""Base and new classes: the first half of them is trained on, all are tested."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from peftbench.data.around import SourceAround
from peftbench.data.base import Source
from peftbench.data.raw import RawSplit

TEST = "test"


def num_base(num_classes: int) -> int:
    """How many classes are base: the first half, and the middle one (CoOp's `subsample_classes`)."""
    return (num_classes + 1) // 2


def base_classes(source: Source) -> Source:
    """`source` with images of base classes alone in all splits but the test; a few-shot draw was made before."""
    return BaseSource(
        class_names=source.class_names,
        membership=source.membership,
        pixels=source.pixels,
        test=source.test,
        notes=source.notes,
        whole=source,
    )


@dataclass(frozen=True)
class BaseSource(SourceAround):
    """`whole`, whose splits for training and validation leave out the new classes; labels and names stay."""

    @property
    def splits(self) -> tuple[str, ...]:
        return self.whole.splits

    @property
    def whole_splits(self) -> tuple[str, str, str, str]:
        return self.whole.whole_splits

    def split(self, name: str) -> RawSplit:
        found = self.whole.split(name)
        if name == TEST:
            return found
        return found.take(np.flatnonzero(found.labels < num_base(self.num_classes)))

    def membership_of(self, name: str) -> str:
        return f"{self.whole.membership_of(name)}, base classes"
