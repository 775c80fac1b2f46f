"""What became of the cells of a plan, from the files of a results folder alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from peftbench.cells.cell import Cell
from peftbench.foundation.errors import RecordError
from peftbench.records.claims import claims_of
from peftbench.records.packed import SUFFIX
from peftbench.records.reading import cut_off
from peftbench.records.record import RunRecord
from peftbench.records.store import Store
from peftbench.sweep.places import Places
from peftbench.sweep.plan import Plan, PlannedCell, file_state

# done: recorded since the plan was made; skipped: recorded before; missing: neither recorded nor noted as failed
STATES = ("done", "skipped", "failed", "missing", "not applicable")
# stands for the method of a cell that could not be planned
UNPLANNED = "not planned"
# what to do about a cell whose record cannot be read
_REMEDY = "runtime.on_existing=rerun measures the cell again and keeps the damaged file in work/replaced"


@dataclass(frozen=True)
class CellState:
    """`state` is one of `STATES`; `running` tells a missing cell that somebody alive works on."""

    state: str
    title: str
    method: str
    message: str = ""
    running: bool = False


def state_of(cell: PlannedCell, places: Places | None = None) -> tuple[str, str]:
    """State and message of one cell; only a missing one is still to be run.

    A record that is cut off counts as failed, and so does a packed one that is to be measured again. Records are not
    read for this (see `cut_off`). `places`: shared by one look at many cells.
    """
    found = (places or Places()).find(cell)
    if found is not None:
        path, since = found
        if since or not cell.reruns:
            if cut_off(path):
                return "failed", f"the record {path} is damaged (empty or cut off); {_REMEDY}"
            return ("done" if since else "skipped"), ""
        if path.name.endswith(SUFFIX):
            return "failed", Store(cell.results).held_packed(path)
    failure = file_state(cell.failure_path)
    if failure is None or (failure == cell.failure and cell.retries):
        return "missing", ""
    try:
        note = Store(cell.results).failure(cell.fingerprint)
    except RecordError as error:
        return "failed", str(error)
    if note is None:
        return "missing", ""
    if note.state != "failed":
        return note.state, note.message
    message = f"{note.message} (traceback in {cell.failure_path})" if note.traceback else note.message
    if failure == cell.failure:
        when = datetime.fromtimestamp(failure[1] / 1e9).strftime("%Y-%m-%d %H:%M")
        message = f"failed before, on {when}: {message}; runtime.on_failed=retry tries it again"
    return note.state, message


def recorded(cell: Cell, store: Store) -> RunRecord:
    """The record of a cell that is done. Raises `RecordError`, with what to do, when it cannot be read."""
    try:
        return store.get(cell.fingerprint)
    except RecordError as error:
        path = store.find(cell.fingerprint, cell.labels)
        if path is None or path.name.endswith(SUFFIX) or not path.is_file():
            raise
        raise RecordError(f"{error}; {_REMEDY}") from None


def states(plan: Plan) -> list[CellState]:
    """All cells of a plan, and those that could not be planned as failed."""
    running, places = running_in(plan.cells), Places()
    known = []
    for cell in plan.cells:
        state, message = state_of(cell, places)
        is_running = state == "missing" and cell.fingerprint in running
        known.append(CellState(state, cell.title, cell.labels["method"], message, is_running))
    return known + [CellState("failed", words, UNPLANNED, message) for words, message in plan.problems]


def missing_of(cells: Iterable[PlannedCell]) -> list[PlannedCell]:
    """Those that are still to be run, in one look."""
    places = Places()
    return [cell for cell in cells if state_of(cell, places)[0] == "missing"]


def running_in(cells: Iterable[PlannedCell]) -> dict[str, str]:
    """Fingerprint -> owner of the cells that somebody alive works on, in all results folders of the cells."""
    found: dict[str, str] = {}
    for results in sorted({cell.results for cell in cells}):
        held = claims_of(Store(results)).running()
        found |= {fingerprint: str(claim.owner or "unknown") for fingerprint, claim in held.items()}
    return found
