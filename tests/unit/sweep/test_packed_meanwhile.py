"""Records that are packed, unpacked or moved while a sweep runs are still those of its cells."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftbench.cli.commands import pack as pack_command
from peftbench.records.packed import SUFFIX
from peftbench.records.record import RunRecord
from peftbench.records.store import Store
from peftbench.sweep.places import Places
from peftbench.sweep.plan import PlannedCell, file_state
from peftbench.sweep.state import missing_of, state_of
from tests.record_factory import make_record

RECORDS = [make_record(seed=seed) for seed in range(3)]


def planned(store: Store, record: RunRecord, on_existing: str = "skip") -> PlannedCell:
    """The cell as a sweep plans it: with its record's place and state at this moment."""
    own = store.path_of(record.labels, record.fingerprint)
    path, failure = store.find(record.fingerprint, record.labels) or own, store.failure_path(record.fingerprint)
    runtime = {"results": str(store.root), "on_existing": on_existing, "on_failed": "skip"}
    return PlannedCell(
        record.fingerprint,
        "a cell",
        record.labels,
        record.seed,
        [],
        {"runtime": runtime},
        str(path),
        file_state(path),
        str(failure),
        file_state(failure),
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def pack(store: Store) -> Path:
    path = store.records_folder / f"mine{SUFFIX}"
    pack_command.pack(store, path, {})
    return path


def test_cells_that_were_finished_and_then_packed_are_done(store: Store) -> None:
    before = store.put(RECORDS[0])
    cells = [planned(store, record) for record in RECORDS]
    store.put(RECORDS[1])
    assert [state_of(cell)[0] for cell in cells] == ["skipped", "done", "missing"]
    pack(store)
    assert not before.exists()
    assert [state_of(cell)[0] for cell in cells] == ["skipped", "done", "missing"]
    assert missing_of(cells) == [cells[2]]


def test_a_look_that_began_before_the_packing_sees_the_pack(store: Store) -> None:
    cells = [planned(store, record) for record in RECORDS]
    for record in RECORDS[:2]:
        store.put(record)
    places = Places()
    assert state_of(cells[2], places)[0] == "missing"
    pack(store)
    assert [state_of(cell, places)[0] for cell in cells] == ["done", "done", "missing"]


def test_cells_that_are_unpacked_meanwhile_are_still_skipped(store: Store) -> None:
    for record in RECORDS[:2]:
        store.put(record)
    path = pack(store)
    cells = [planned(store, record) for record in RECORDS[:2]]
    assert cells[0].record_path == str(path)
    pack_command.unpack(store, path)
    assert [state_of(cell)[0] for cell in cells] == ["skipped", "skipped"]
    store.find(RECORDS[0].fingerprint).unlink()
    assert [state_of(cell)[0] for cell in cells] == ["missing", "skipped"]


def test_a_record_that_is_packed_before_it_is_measured_again_fails_with_what_to_do(store: Store) -> None:
    store.put(RECORDS[0])
    cell = planned(store, RECORDS[0], "rerun")
    assert state_of(cell) == ("missing", "")
    path = pack(store)
    assert state_of(cell) == ("failed", store.held_packed(path))
    assert f"pack mine --unpack --results {store.root}" in store.held_packed(path)


def test_a_record_that_was_measured_again_and_then_packed_is_done(store: Store) -> None:
    store.put(RECORDS[0])
    cell = planned(store, RECORDS[0], "rerun")
    store.put(make_record(seed=0, accuracy=0.9), replace=True)
    assert state_of(cell) == ("done", "")
    pack(store)
    assert state_of(cell) == ("done", "")


def test_many_cells_are_looked_up_in_one_listing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for record in RECORDS[:2]:
        store.put(record)
    pack(store)
    cells = [planned(store, record) for record in RECORDS] * 5
    listed = []
    places = Store.places
    monkeypatch.setattr(Store, "places", lambda self: listed.append(self.root) or places(self))
    monkeypatch.setattr(Store, "find", lambda *_: pytest.fail("a look of its own for each cell"))
    assert len(missing_of(cells)) == 5
    assert listed == [store.root]
