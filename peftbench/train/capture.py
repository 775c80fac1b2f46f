"""The training step as a CUDA graph: recorded once for each size of step, then started by one call of the host.

A step of a small network is thousands of kernels that the device runs faster than the host can start them. A graph
starts all of them at once. It runs the same kernels on the same numbers, so it changes no bit; dropout draws from the
device's generator, which a replay moves on as the step itself would.
"""

from __future__ import annotations

import random
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import torch

from peftbench.train.batches import Batches
from peftbench.train.options import TrainSpec

CAPTURED = "captured"

# the sizes of a step's micro-batches
Sizes: TypeAlias = tuple[int, ...]

# Steps of each size that run as they are: libraries set themselves up in the first, the second is watched.
_WARM_UP = 2
_SYNCHRONISES = "called a synchronizing CUDA operation"
_OFF = "set runtime.capture=off, which starts its kernels one by one and changes no number"


def reason_against(train: TrainSpec, batches: Batches) -> str:
    """Why the steps of such a training cannot be captured, in words for the record; empty where they can."""
    if why := _elsewhere(batches):
        return why
    if train.recompute:
        return "computing blocks again puts the random generator back"
    return batches.needs_host


def reason_against_passes(batches: Batches) -> str:
    """The same of the passes of an evaluation."""
    return _elsewhere(batches) or batches.needs_host


def _elsewhere(batches: Batches) -> str:
    kind = batches.device.type
    return "" if kind == "cuda" else f"graphs are for CUDA, this is {kind}"


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """The one stream of this process for recordings: cuBLAS keeps a workspace for each stream that it has worked on."""
    return torch.cuda.Stream(device)


class Graphs:
    """Does `work(sizes)`, at first as it is and then by replaying its record. CUDA only.

    `work` must be the same kernels at every call of the same sizes, on tensors that stay where they are. The first
    calls are real ones, so nothing has to be put back. Work that turns out to wait for the device or to draw random
    numbers on the host is never recorded; `outcome` then says so.
    """

    def __init__(self, work: Callable[[Sizes], None], device: torch.device) -> None:
        self._work, self._device = work, device
        self._stream = _stream(device)
        self._graphs: dict[Sizes, torch.cuda.CUDAGraph] = {}
        self._seen: Counter[Sizes] = Counter()
        self._refused = ""

    @property
    def outcome(self) -> str:
        if self._refused:
            return self._refused
        return CAPTURED if self._graphs else "too few steps to record one"

    @contextmanager
    def running(self) -> Iterator[None]:
        """All calls must be made in here: recording needs a stream of its own, and the first steps the same one."""
        outside = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(outside)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            outside.wait_stream(self._stream)

    def __call__(self, sizes: Sizes) -> None:
        if sizes in self._graphs:
            self._graphs[sizes].replay()
            return
        self._seen[sizes] += 1
        if self._refused or self._seen[sizes] < _WARM_UP:
            self._work(sizes)
        elif self._seen[sizes] == _WARM_UP:
            self._refused = watched(lambda: self._work(sizes))
        else:
            self._record(sizes)
            self._graphs[sizes].replay()

    def _record(self, sizes: Sizes) -> None:
        graph = torch.cuda.CUDAGraph()
        # One pool for all: of two graphs that never run at once, one may use the memory of the other.
        pool = next(iter(self._graphs.values())).pool() if self._graphs else None
        try:
            with torch.cuda.graph(graph, pool=pool, stream=self._stream):
                self._work(sizes)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            # the driver is left within the recording, so that nothing can go on from here
            raise RuntimeError(f"a step cannot be recorded ({error}); {_OFF}") from error
        self._graphs[sizes] = graph


def watched(work: Callable[[], None]) -> str:
    """Does `work` and says why it could not be replayed; empty where it could."""
    before = _host_chance()
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        # torch says once that the mode is a prototype, which is no word for whoever trains
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    waits = [warning for warning in caught if _SYNCHRONISES in str(warning.message)]
    for warning in caught:
        if warning not in waits:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if waits:
        return "the host waits for the device within each step"
    return "" if _host_chance() == before else "random numbers of a step are drawn on the host"


def _host_chance() -> tuple[Any, ...]:
    """The states of the host's global generators."""
    _, keys, *rest = np.random.get_state(legacy=True)
    return random.getstate(), np.asarray(keys).tobytes(), rest, torch.get_rng_state().numpy().tobytes()
