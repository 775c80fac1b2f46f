"""Batches of images that are decoded while training goes on, in worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from peftbench.foundation.errors import PeftbenchError

# draws of an augmentation that are for readers
FOR_READERS = ("place", "moment", "cut", "ops")
Drawn = Mapping[str, Tensor]


class Reader(Protocol):
    """Images that are read on demand.

    `shape`, `dtype`: as of the whole array, [num, height, width, 3] of uint8, with frames behind num for clips. `read`
    gives chosen rows; `drawn` says for each, by the names of `FOR_READERS`, where it is cut (`place` [num_rows, 2] in
    [0, 1)), which `moment` of a clip is taken ([num_rows, frames] in [0, 1)), and what chance is drawn from for another
    `cut` or `ops` ([num_rows], integers). What it gives depends on its arguments alone, so that any number of processes
    may share the work. One to which moments make a difference has `draws_frames`.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def read(self, rows: np.ndarray, drawn: Mapping[str, np.ndarray] | None = None) -> np.ndarray: ...


def read_ahead(reader: Reader, indices: list[Tensor], drawn: Drawn, workers: int) -> Iterator[Tensor]:
    """The images of each batch of `indices`, in order; `drawn` are random numbers by sample, see `FOR_READERS`.

    With `workers` above 0 that many processes each decode whole batches, two batches ahead.
    Raises what `reader.read` raises.
    """
    tasks = [(rows.numpy(), {name: values[rows].numpy() for name, values in drawn.items()}) for rows in indices]
    loader: DataLoader[Tensor | PeftbenchError] = DataLoader(
        _Tasks(reader, tasks),
        batch_size=None,
        num_workers=workers,
        # Its own generator: the loader draws a seed, and from the global one that would move dropout's numbers.
        generator=torch.Generator(),
        # Readers hold open tables and locks, which only a fork can hand over.
        multiprocessing_context="fork" if workers else None,
    )
    for images in loader:
        if isinstance(images, PeftbenchError):
            raise images
        yield images


class _Tasks(Dataset[Tensor | PeftbenchError]):
    """Batch number -> images."""

    def __init__(self, reader: Reader, tasks: list[tuple[np.ndarray, dict[str, np.ndarray]]]) -> None:
        self._reader, self._tasks = reader, tasks

    def __len__(self) -> int:
        return len(self._tasks)

    def __getitem__(self, step: int) -> Tensor | PeftbenchError:
        try:
            rows, drawn = self._tasks[step]
            return torch.from_numpy(self._reader.read(rows, drawn))
        except PeftbenchError as error:
            # returned, not raised: the loader would wrap it in a traceback of the worker
            return error
