"""Rooms may move, identities may not: what is committed is found again under its fingerprint by today's code."""

from __future__ import annotations

from typing import Any

from peftbench.cells.cell import plan
from peftbench.config.gate import from_tree
from peftbench.config.runtime import RuntimeSpec
from peftbench.foundation.spec import defaults_of
from peftbench.records.record import RunRecord
from peftbench.records.store import Store
from tests.conftest import REPOSITORY

# one record of every method and data set that needs no file
EMBEDDED = {
    (record.labels["method"], record.labels["dataset"]): record
    for record in Store(REPOSITORY / "results").scan()[0]
    if record.labels["backbone"] == "vit_micro" and record.tuning is None
}


def test_committed_records_are_planned_under_their_own_fingerprints() -> None:
    moved = [" ".join(record.labels.values()) for record in EMBEDDED.values() if _identity(record) != record.identity]
    assert EMBEDDED and moved == []


def _identity(record: RunRecord) -> dict[str, Any]:
    """What today's code takes the cell of a record for."""
    config, _ = from_tree({**record.config, "runtime": defaults_of(RuntimeSpec)})
    return plan(config).identity
