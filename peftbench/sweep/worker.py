"""A worker: walks through a plan and runs every cell that is still to be run and that nobody else holds."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

from peftbench.cells.cell import Cell, plan
from peftbench.cells.shared import sharing
from peftbench.config.gate import from_tree
from peftbench.config.runtime import RuntimeSpec
from peftbench.foundation.errors import PeftbenchError
from peftbench.records.claims import Claim, Claims, claims_of
from peftbench.records.store import Store
from peftbench.sweep.attempt import run_noted
from peftbench.sweep.clock import SweepClock, recorded_times
from peftbench.sweep.places import Places
from peftbench.sweep.plan import Plan, PlannedCell
from peftbench.sweep.state import missing_of, running_in, state_of

# a cell that ends its worker this often (memory, a broken driver) is noted as failed instead of ending more
MAX_DEATHS = 3


def work(plan_file: str, threads: int = 0, progress: bool = False) -> int:
    """Run the cells of a plan that are left, beside any number of other workers. Returns how many were run here.

    threads: CPU threads, 0 leaves the plan's choice. progress: show it; not where several workers share a terminal.
    """
    sweep = Plan.read(Path(plan_file))
    os.chdir(sweep.folder)
    left = missing_of(sweep.cells)
    clock = SweepClock(recorded_times(sweep.cells), len(sweep.cells), left)
    num_run = 0
    while True:
        before, places = num_run, Places()
        with sharing():
            for cell in list(left):
                ran = _run_if_free(cell, places, clock, threads, progress)
                num_run += bool(ran)
                if ran is not None:
                    left.remove(cell)
        # cells held by others may have been given up meanwhile, so look again after every round that ran something
        if num_run == before and not _freed(missing_of(left)):
            return num_run


def _run_if_free(cell: PlannedCell, places: Places, clock: SweepClock, threads: int, progress: bool) -> bool | None:
    """True when the cell was run here, False when it was over already, None while somebody else holds it."""
    if state_of(cell, places)[0] != "missing":
        clock.settle(cell)
        return False
    store = Store(cell.results)
    claim = claims_of(store).take(cell.fingerprint)
    if claim is None:
        return None
    with claim:
        started = time.perf_counter()
        # only now is it certain that nobody finishes the cell between this look, at everything anew, and the run
        over = state_of(cell)[0] != "missing"
        if not over:
            clock.num_workers = max(1, len(running_in([cell])))
            _run(cell, claim, store, clock, threads, progress)
        clock.settle(cell, None if over else time.perf_counter() - started)
    return not over


def _run(planned: PlannedCell, claim: Claim, store: Store, clock: SweepClock, threads: int, progress: bool) -> None:
    if claim.num_deaths >= MAX_DEATHS:
        message = (
            f"its worker died {claim.num_deaths} times while running it, perhaps killed for using too much memory; "
            "try a smaller train.batch_size with train.accumulate, then runtime.on_failed=retry"
        )
        store.put_failure(planned.fingerprint, planned.labels, message, "")
        return
    try:
        cell, runtime = _as_planned(planned)
    except PeftbenchError as error:
        store.put_failure(planned.fingerprint, planned.labels, str(error), "")
        return
    runtime = dataclasses.replace(runtime, progress=progress and runtime.progress, threads=threads or runtime.threads)
    started = time.perf_counter()
    run_noted(cell, runtime, store, lambda done: clock.line(planned, time.perf_counter() - started, done))


def _as_planned(planned: PlannedCell) -> tuple[Cell, RuntimeSpec]:
    """Raises `PeftbenchError` when data or weights are no longer those the grid was planned with."""
    config, runtime = from_tree(planned.config)
    cell = plan(config)
    if cell.fingerprint != planned.fingerprint:
        raise PeftbenchError("data, weights or code have changed since the sweep was planned; start it again")
    return dataclasses.replace(cell, words=tuple(planned.words), apart=tuple(planned.apart)), runtime


def _freed(cells: list[PlannedCell]) -> bool:
    """Whether one of these cells, held by others, came free; watched until each owner has shown that it lives.

    An owner of this machine is alive or not, which `take` sees at once. One of another machine must touch its claim
    within a few beats; when it does not, the claim becomes stale and the cell is free.
    """
    watched: dict[str, tuple[Claims, float]] = {}
    for cell in cells:
        claims = claims_of(Store(cell.results))
        held = claims.holder(cell.fingerprint)
        if held is None or held.dead(claims.now(), claims.stale_seconds):
            return True
        if held.owner is None or not held.owner.here:
            watched[cell.fingerprint] = (claims, held.touched)
    while watched:
        time.sleep(1.0)
        for fingerprint, (claims, touched) in list(watched.items()):
            held = claims.holder(fingerprint)
            if held is None or held.dead(claims.now(), claims.stale_seconds):
                return True
            if held.touched != touched:
                del watched[fingerprint]
    return False
