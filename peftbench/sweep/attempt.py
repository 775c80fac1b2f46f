"""One claimed cell: it is run, and whatever stops it is noted, so that a sweep can go on."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from peftbench.cells.cell import Cell
from peftbench.cells.lines import finished_line, summary
from peftbench.cells.loggers import open_logger
from peftbench.cells.run import run_cell
from peftbench.config.runtime import RuntimeSpec
from peftbench.foundation.device import device_answers
from peftbench.foundation.errors import (
    AlreadyRecorded,
    DeviceLost,
    HeldPacked,
    LoggingUnavailable,
    NotApplicable,
    PeftbenchError,
    RecordError,
)
from peftbench.foundation.progress import Progress
from peftbench.foundation.system import system_problem
from peftbench.foundation.terminal import print_fitted
from peftbench.records.claims import claims_of
from peftbench.records.store import Store
from peftbench.tune.driver import tuned


@dataclass(frozen=True)
class Outcome:
    """What became of one cell; `state` is done, skipped, failed or not applicable."""

    state: str
    title: str
    message: str = ""
    error: Exception | None = None


def run_noted(
    cell: Cell,
    runtime: RuntimeSpec,
    store: Store,
    headline: Callable[[float], str] | None = None,
    say: bool = True,
) -> Outcome:
    """Run a cell that is this worker's. Errors end in the outcome and in a note beside the records.

    `say` prints the finished cell's line. Raises `DeviceLost`, the note written, when an error has left the GPU without
    use: whatever came behind it in this process would fail as well. Raises `LoggingUnavailable` without a note: it
    stops every cell alike, and none of them is to blame.
    """
    started = time.perf_counter()
    try:
        # what would be refused behind the training is refused ahead of it
        store.to_replace(cell.labels, cell.fingerprint, runtime.on_existing == "rerun")
        with open_logger(cell, runtime) as logger:
            progress = Progress(runtime.progress, (logger.epoch,) if logger else (), headline)
            record = run_cell(tuned(cell, runtime, store), runtime, store, progress)
            if logger:
                logger.record(record)
    except LoggingUnavailable:
        raise
    except NotApplicable as error:
        store.put_failure(cell.fingerprint, cell.labels, str(error), "", "not applicable")
        return Outcome("not applicable", cell.title, str(error), error)
    except AlreadyRecorded:
        # another host took this worker for dead and was faster; both trained the same cell
        return Outcome("skipped", cell.title, "another worker has recorded it meanwhile")
    except HeldPacked as error:
        # no note: it would keep the next sweep from the cell once its record is unpacked
        return Outcome("failed", cell.title, str(error), error)
    except Exception as error:
        shown = _explained(error)
        note = store.put_failure(cell.fingerprint, cell.labels, str(shown), traceback.format_exc())
        if not device_answers():
            raise DeviceLost(
                f"{shown} (traceback in {note}). Behind it the GPU gives no more answers in this process, so that no "
                "other cell was begun; the same command goes on with the next one"
            ) from error
        if shown is not error and not isinstance(error, OSError):
            shown = PeftbenchError(f"{shown} (traceback in {note})")
        return Outcome("failed", cell.title, str(shown), shown)
    if say:
        path = store.path_of(cell.labels, cell.fingerprint)
        print_fitted(finished_line(summary(record), path, time.perf_counter() - started, cell.apart))
    return Outcome("done", cell.title)


def run_claimed(cell: Cell, runtime: RuntimeSpec, store: Store, say: bool = True) -> None:
    """Run a cell that nobody else runs. Raises `RecordError` while somebody does, and what the run ended in."""
    claims = claims_of(store)
    claim = claims.take(cell.fingerprint)
    if claim is None:
        raise RecordError(f"this cell is being run by {claims.holder(cell.fingerprint) or 'another worker'}")
    with claim:
        outcome = run_noted(cell, runtime, store, say=say)
    if outcome.error is not None:
        raise outcome.error
    if say and outcome.state == "skipped":
        print_fitted(f"{outcome.title}: {outcome.message}")


def _explained(error: Exception) -> Exception:
    """Errors of ours as they are; anything else named, with what to do where that is known."""
    if isinstance(error, PeftbenchError):
        return error
    if "out of memory" in str(error).lower() or isinstance(error, MemoryError):
        return PeftbenchError(
            "out of memory; try a smaller train.batch_size with train.accumulate, or train.precision=bf16"
        )
    known = system_problem(error) if isinstance(error, OSError) else None
    return known or PeftbenchError(f"unexpected {type(error).__name__}: {error}")
