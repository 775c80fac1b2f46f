"""Rooms may move, identities may not: what is committed is found again under its fingerprint by today's code."""

from __future__ import annotations

import pytest

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


@pytest.mark.parametrize("record", EMBEDDED.values(), ids=lambda record: " ".join(record.labels.values()))
def test_a_committed_record_is_planned_under_its_own_fingerprint(record: RunRecord) -> None:
    config, _ = from_tree({**record.config, "runtime": defaults_of(RuntimeSpec)})
    assert plan(config).identity == record.identity
