"""Evaluation: one pass over a split through a task's meter, giving metrics and the predictions they come from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import nn

from peftbench.train.batches import Batch, Batches
from peftbench.train.precision import autocast


@dataclass(frozen=True)
class Measured:
    """What a meter read. `metrics` are plain numbers by name, the number of samples `n` among them.

    `predictions`: what a prediction file holds, one entry a sample in the order of the split; None where a task keeps
    none.
    """

    metrics: Mapping[str, float | int]
    predictions: NDArray[Any] | None = None


class Meter(Protocol):
    """Gathers the outputs of one pass over a split. A new one is made for every pass."""

    def update(self, outputs: Any, batch: Batch) -> None:
        """Take the model's outputs of one batch. Nothing here should wait for the device."""

    def result(self) -> Measured:
        """The numbers, once every sample was seen. Raises `TrainingDiverged` where they are not finite."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one pass, see `Measured`. seconds: wall time of the pass, data included. views: of each sample."""

    metrics: Mapping[str, float | int]
    seconds: float
    predictions: NDArray[Any] | None = field(default=None, repr=False)
    views: int = 1

    @property
    def num_samples(self) -> int:
        return int(self.metrics["n"])


@contextmanager
def kept_modes(model: nn.Module) -> Iterator[None]:
    """Puts every module back into the mode (train or eval) it was in."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def evaluate(
    model: nn.Module,
    batches: Batches,
    meter: Meter,
    precision: str = "fp32",
    more_views: Sequence[Batches] = (),
    together: Callable[[Sequence[Any]], Any] | None = None,
) -> Evaluation:
    """Shows every sample to the model once, in eval mode; the model's modes are put back afterwards.

    With `more_views`, other views of the same samples in the same order, the meter is given what `together` makes of
    the outputs of all. Nothing waits for the device before the last batch.

    Raises `ValueError` when `batches` leaves samples out, and what the meter raises.
    """
    if len(batches) * batches.batch_size < batches.num_samples:
        raise ValueError("evaluation needs every sample: build the batches with keep_last=True")
    start = time.perf_counter()
    with kept_modes(model), torch.inference_mode():
        model.eval()
        for batch, *others in zip(*(view.epoch(0) for view in (batches, *more_views)), strict=True):
            seen = []
            for view in (batch, *others):
                with autocast(batches.device, precision):
                    seen.append(model(*batches.inputs_of(view)))
            meter.update(together(seen) if together and others else seen[0], batch)
    measured = meter.result()
    seconds = time.perf_counter() - start
    return Evaluation(measured.metrics, seconds, measured.predictions, 1 + len(more_views))
