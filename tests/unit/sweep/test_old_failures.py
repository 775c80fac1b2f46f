"""A failure from before the sweep was planned says so, when it was, and how to try again."""

from __future__ import annotations

import os
from pathlib import Path

from peftbench.records.store import Store
from peftbench.sweep.plan import PlannedCell, file_state
from peftbench.sweep.state import state_of
from tests.record_factory import make_record


def planned(results: Path, on_failed: str = "skip") -> PlannedCell:
    record = make_record()
    path = Store(results).failure_path(record.fingerprint)
    runtime = {"results": str(results), "on_existing": "skip", "on_failed": on_failed}
    return PlannedCell(
        record.fingerprint,
        "a cell",
        record.labels,
        0,
        [],
        {"runtime": runtime},
        "none",
        None,
        str(path),
        file_state(path),
    )


def test_an_old_failure_is_called_old(tmp_path):
    record = make_record()
    note = Store(tmp_path).put_failure(record.fingerprint, record.labels, "the disk was full", "")
    os.utime(note, (1_700_000_000, 1_700_000_000))
    state, message = state_of(planned(tmp_path))
    assert state == "failed"
    assert message.startswith("failed before, on 2023-11-1") and "the disk was full" in message
    assert message.endswith("runtime.on_failed=retry tries it again")
    # which it does
    assert state_of(planned(tmp_path, "retry"))[0] == "missing"


def test_a_failure_of_this_sweep_is_not(tmp_path):
    record = make_record()
    cell = planned(tmp_path)
    for traceback, place in (("", ""), ("Traceback ...", f" (traceback in {cell.failure_path})")):
        Store(tmp_path).put_failure(record.fingerprint, record.labels, "the disk was full", traceback)
        assert state_of(cell) == ("failed", f"the disk was full{place}")
