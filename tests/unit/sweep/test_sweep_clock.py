"""ETA: expected from the most similar measured cells, corrected by how far the running one is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peftbench.sweep.clock import CellTimes, SweepClock, duration, recorded_times
from peftbench.sweep.plan import PlannedCell


def cell(name: str, method: str = "lora", dataset: str = "dtd", record: str = "nowhere") -> PlannedCell:
    labels = {"backbone": "vit", "method": method, "dataset": dataset, "group": "natural"}
    return PlannedCell(name, name, labels, 0, [], {}, record, None, "nowhere", None)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (60, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3780, "1 h 03 min"),
        (90000, "25 h 00 min"),
    ],
)
def test_durations_are_written_as_people_say_them(seconds, text):
    assert duration(seconds) == text


def test_the_most_similar_cells_tell_the_time():
    times = CellTimes()
    assert times.expect(cell("a").labels) is None
    times.add(cell("a", "lora", "dtd").labels, 10)
    times.add(cell("b", "lora", "dtd").labels, 20)
    times.add(cell("c", "lora", "svhn").labels, 60)
    times.add(cell("d", "full", "svhn").labels, 100)
    assert times.expect(cell("e", "lora", "dtd").labels) == 15, "same method and dataset"
    assert times.expect(cell("e", "lora", "eurosat").labels) == 30, "same method"
    assert times.expect(cell("e", "ssf", "svhn").labels) == 80, "same dataset"
    assert times.expect(cell("e", "ssf", "eurosat").labels) == 47.5, "same backbone"


def test_the_first_cell_tells_its_own_time_once_it_trains():
    cells = [cell(name) for name in "abcd"]
    clock = SweepClock(CellTimes(), 4, list(cells))
    assert clock.line(cells[0], 5.0, 0.0) == "cell 1/4, ETA not known yet"
    # a quarter done after 10 s: 40 s a cell, 30 s left of this one and three to come
    assert clock.line(cells[0], 10.0, 0.25) == "cell 1/4, ETA 2 min 30 s"
    clock.settle(cells[0], 40.0)
    assert clock.line(cells[1], 0.0, 0.0) == "cell 2/4, ETA 2 min 00 s"


def test_workers_beside_this_one_share_what_is_left():
    cells = [cell(name) for name in "abcde"]
    clock = SweepClock(CellTimes(), 9, cells[1:])
    clock.times.add(cells[0].labels, 60.0)
    clock.num_workers = 3
    assert clock.line(cells[1], 30.0, 0.5) == "cell 6/9, ETA 1 min 30 s"


def test_cells_over_elsewhere_no_longer_count():
    cells = [cell(name) for name in "abc"]
    clock = SweepClock(CellTimes(), 3, list(cells))
    clock.times.add(cells[0].labels, 10.0)
    clock.settle(cells[0])
    clock.settle(cells[1])
    assert clock.line(cells[2], 0.0, 0.0) == "cell 3/3, ETA 10 s"


def test_records_that_are_there_already_are_measurements(tmp_path: Path):
    path = tmp_path / "record.json"
    path.write_text(json.dumps({"provenance": {"seconds": 12.5}}))
    damaged = tmp_path / "damaged.json"
    damaged.write_text("{")
    times = recorded_times([cell("a", record=str(path)), cell("b", record=str(damaged)), cell("c")])
    assert times.expect(cell("d").labels) == 12.5
    assert times.total([cell("d"), cell("e")]) == 25.0
