"""run_cell: the straight line from a planned cell to its record."""

from __future__ import annotations

import datetime
import time

from peftbench.adapters.file import adapter_tensors
from peftbench.cells.cell import Cell
from peftbench.cells.measure import measure
from peftbench.cells.parts import build_parts
from peftbench.cells.recording import Clocked, record_of
from peftbench.cells.settled import settled
from peftbench.cells.train import train_parts
from peftbench.config.runtime import RuntimeSpec
from peftbench.foundation.progress import Progress
from peftbench.foundation.stopping import stop_if_told
from peftbench.records.owned import Attempt
from peftbench.records.record import RunRecord
from peftbench.records.store import Store
from peftbench.train.measure import PeakMemory


def run_cell(cell: Cell, runtime: RuntimeSpec, store: Store, progress: Progress) -> RunRecord:
    """Train, evaluate and record one cell. The record is in the store when this returns.

    Raises what its parts raise; then nothing is recorded.
    """
    stop_if_told()
    started, clock = datetime.datetime.now(datetime.timezone.utc), time.perf_counter()
    config = cell.config
    with settled(runtime, config.train) as device:
        peak = PeakMemory(device)
        for line in config.hparams.lines():
            progress.say(line)
        parts = build_parts(config, runtime, progress)
        trained = train_parts(config, parts, progress, cell.title, runtime)
        tensors = adapter_tensors(parts.model, parts.frozen_buffers, parts.observed.findings)
        scores = measure(config, parts, trained.last_block)
    cell.check_unchanged()
    clocked = Clocked(started, time.perf_counter() - clock, peak.bytes(), peak.kind)
    files = Attempt()
    record = record_of(cell, runtime, store, parts, trained, scores, tensors, clocked, files)
    with files.kept_after():
        store.put(record, replace=runtime.on_existing == "rerun")
    store.clear_failure(cell.fingerprint)
    return record
