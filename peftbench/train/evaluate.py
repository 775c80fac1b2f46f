"""Evaluation: one pass over a split through a task's meter, giving metrics and the predictions they come from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from peftbench.train.batches import Batch, Batches
from peftbench.train.capture import Graphs, Sizes, reason_against_passes
from peftbench.train.precision import autocast
from peftbench.train.resident import ResidentEpoch


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


def evaluate(model: nn.Module, batches: Batches, meter: Meter, precision: str = "fp32") -> Evaluation:
    """Shows every sample to the model once, in eval mode; the model's modes are put back afterwards.

    Nothing waits for the device before the last batch.

    Raises `ValueError` when `batches` leaves samples out, and what the meter raises.
    """
    return Passes(model, batches, precision).measure(meter)


def evaluate_views(
    model: nn.Module,
    views: Sequence[Batches],
    meter: Meter,
    together: Callable[[Sequence[Any]], Any],
    precision: str = "fp32",
) -> Evaluation:
    """The same for several views of the samples, in one order: the meter is given what `together` makes of the outputs.

    Raises what `evaluate` raises.
    """
    passes = [Passes(model, batches, precision) for batches in views]
    start = time.perf_counter()
    with kept_modes(model), torch.inference_mode():
        model.eval()
        for group in zip(*(batches.epoch(0) for batches in views), strict=True):
            meter.update(together([each.outputs(batch) for each, batch in zip(passes, group, strict=True)]), group[0])
    measured = meter.result()
    return Evaluation(measured.metrics, time.perf_counter() - start, measured.predictions, len(views))


class Passes:
    """The same split through the same model again and again, as validation asks for; each like `evaluate`.

    `against_capture` says why batches must not be captured as CUDA graphs, which changes no number; empty lets them.

    Raises `ValueError` when `batches` leaves samples out.
    """

    def __init__(
        self, model: nn.Module, batches: Batches, precision: str = "fp32", against_capture: str = "not asked for"
    ) -> None:
        if len(batches) * batches.batch_size < batches.num_samples:
            raise ValueError("evaluation needs every sample: build the batches with keep_last=True")
        self._model = model
        shown = _Started if against_capture or reason_against_passes(batches) else _Captured
        self._shown = shown(model, batches, precision)

    def outputs(self, batch: Batch) -> Any:
        """The model's outputs of one batch of the split, in the mode it is in."""
        return self._shown.outputs(batch)

    def measure(self, meter: Meter) -> Evaluation:
        """One pass. Raises what the meter raises."""
        start = time.perf_counter()
        with kept_modes(self._model), torch.inference_mode():
            self._model.eval()
            self._shown.each(meter.update)
        measured = meter.result()
        return Evaluation(measured.metrics, time.perf_counter() - start, measured.predictions)


class _Started:
    """Batches that the host puts together and starts kernel by kernel."""

    def __init__(self, model: nn.Module, batches: Batches, precision: str) -> None:
        self._model, self._batches, self._precision = model, batches, precision

    def each(self, update: Callable[[Any, Batch], None]) -> None:
        for batch in self._batches.epoch(0):
            update(self.outputs(batch), batch)

    def outputs(self, batch: Batch) -> Any:
        with autocast(self._batches.device, self._precision):
            return self._model(*self._batches.inputs_of(batch))


class _Captured(_Started):
    """The same, each replayed as a whole; what is handed on are copies, as the next replay writes over it."""

    def __init__(self, model: nn.Module, batches: Batches, precision: str) -> None:
        super().__init__(model, batches, precision)
        resident, plain = ResidentEpoch(batches), _Started(model, batches, precision)
        shown: dict[Sizes, tuple[Any, Batch]] = {}

        # no method: graphs that refer to what holds them would keep the device's memory until they are collected
        def show(sizes: Sizes) -> None:
            batch = resident.next(*sizes)
            left = {name: values for name, values in batch.items() if name not in batches.input_names}
            shown[sizes] = plain.outputs(batch), left

        self._resident, self._shown, self._graphs = resident, shown, Graphs(show, batches.device)

    def each(self, update: Callable[[Any, Batch], None]) -> None:
        with self._graphs.running():
            self._resident.begin(0)
            for size in self._batches.sizes:
                self._graphs((size,))
                update(*tree_map_only(Tensor, Tensor.clone, self._shown[size,]))
