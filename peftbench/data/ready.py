"""What a cell trains and measures on: a split as arrays, and which view of its samples they show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class View:
    """What of a sample is shown in one pass: stretch `number` of `views` in time, its square cut at `place` (0 to 1)
    of the longer side.
    """

    number: int = 0
    views: int = 1
    place: float = 0.5


class OnDemand(Protocol):
    """Reads like an array, making the rows that are asked for: see `data.pixels.stream`."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    nbytes: int

    def read(self, rows: np.ndarray, drawn: Mapping[str, np.ndarray] | None = None) -> np.ndarray: ...


@dataclass(frozen=True)
class Split:
    """A split ready for training: inputs and targets by name, the samples along the first axis of each.

    `inputs["image"]`: uint8 [num, size, size, channels], of clips [num, frames, size, size, channels], read-only,
    memory-mapped; one channel when all are grey. For a large split it is made when read. Others may hold texts as token
    ids, and so on.
    `targets["label"]`: int64 [num], read-only. Others may be maps [num, (channels,) height, width] or boxes
    [num, most, 6], see `data.maps`, or those of texts, see `data.texted`.
    `digest`: SHA-256 (hex) over content, labels and texts.
    `texts`: of each sample, where it has any; a cell adds them to the inputs in the tokens of its backbone.
    """

    inputs: Mapping[str, np.ndarray | OnDemand]
    targets: Mapping[str, np.ndarray]
    digest: str
    texts: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def of_images(cls, images: np.ndarray | OnDemand, labels: np.ndarray, digest: str) -> Split:
        """Images with one class each."""
        return cls({"image": images}, {"label": labels}, digest)

    def __len__(self) -> int:
        return int(next(iter(self.inputs.values())).shape[0])

    @property
    def images(self) -> np.ndarray | OnDemand:
        return self.inputs["image"]

    @property
    def labels(self) -> np.ndarray:
        return self.targets["label"]
