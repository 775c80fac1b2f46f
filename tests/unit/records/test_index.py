"""The index: the same rows as reading everything, and only what is new is read."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from peftbench.boards.leaderboard import leaderboard
from peftbench.cli.commands.pack import main as pack
from peftbench.records import index as module
from peftbench.records.collect import collect
from peftbench.records.index import read_rows
from peftbench.records.record import RunRecord
from peftbench.records.store import Store
from tests.record_factory import make_record


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    for method in ("lora", "vpt"):
        for dataset in ("dtd", "eurosat"):
            for seed in range(2):
                memory = None if seed else 4_000
                store.put(make_record(method=method, dataset=dataset, seed=seed, memory_bytes=memory))
    store.put(make_record(accuracy=None, protocol="vtab1k_tune", tuning={"label": "tuned (budget 3, grid)"}))
    return store


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the record files that were read."""
    read: list[str] = []

    def noted(path: Path) -> RunRecord:
        read.append(path.name)
        return original(path)

    original = module.read_record
    monkeypatch.setattr(module, "read_record", noted)
    return read


def test_rows_equal_those_of_reading_everything(store: Store) -> None:
    expected = collect(store.all())
    for _ in range(2):
        rows, skipped = read_rows(store)
        assert skipped == []
        assert rows.to_dict("records") == expected.to_dict("records")
        assert leaderboard(rows) == leaderboard(expected)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_several_processes_read_the_same(num_workers: int, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = store.records_folder / "vit_b16" / "lora" / "dtd" / "0123456789abcdef.json"
    broken.parent.mkdir(parents=True, exist_ok=True)
    broken.write_text("{")
    expected, expected_skipped = read_rows(store, use_index=False)
    monkeypatch.setattr(module, "_BATCH", 2)
    done: list[int] = []
    bars: list[tuple[str, int]] = []

    def bar(title: str, total: int) -> contextlib.AbstractContextManager[Callable[[int], None]]:
        bars.append((title, total))
        return contextlib.nullcontext(done.append)

    rows, skipped = read_rows(store, use_index=False, num_workers=num_workers, bar=bar)
    assert rows.to_dict("records") == expected.to_dict("records") and len(rows) == 9
    assert skipped == expected_skipped and len(skipped) == 1
    assert bars == [("reading records", 10)] and done == [2] * 5


def test_only_new_files_are_read(store: Store, reads: list[str]) -> None:
    read_rows(store)
    assert len(reads) == 9
    reads.clear()
    new = store.put(make_record(method="ssf"))
    assert "ssf" in set(read_rows(store)[0]["method"])
    assert reads == [new.name]
    reads.clear()
    read_rows(store)
    assert reads == []
    new.unlink()
    assert "ssf" not in set(read_rows(store)[0]["method"])
    assert reads == []


def test_a_changed_file_is_read_again(store: Store, reads: list[str]) -> None:
    read_rows(store)
    reads.clear()
    path = store.record_files()[0]
    values = json.loads(path.read_text())
    values["labels"]["group"] = "elsewhere"
    path.write_text(json.dumps(values))
    assert "elsewhere" in set(read_rows(store)[0]["group"])
    assert reads == [path.name]


def test_what_is_no_record_is_named_each_time_and_read_once(store: Store, reads: list[str]) -> None:
    folder = store.record_files()[0].parent
    (folder / "0123456789abcdef.json").write_text('{"schema": 1')
    (folder / "package.json").write_text('{"name": "x"}')
    copy = folder / "fedcba9876543210.json"
    copy.write_text(store.record_files()[0].read_text())
    for _ in range(2):
        rows, skipped = read_rows(store)
        assert len(rows) == 9
        assert [line.split(": ")[0] for line in skipped] == sorted(
            str(folder / name) for name in ("0123456789abcdef.json", "fedcba9876543210.json", "package.json")
        )
    assert len(reads) == 12


def test_a_second_file_for_a_cell_is_named(store: Store) -> None:
    path = store.record_files()[0]
    other = store.records_folder / "zzz" / "method" / "dataset" / path.name
    other.parent.mkdir(parents=True)
    other.write_text(path.read_text())
    rows, skipped = read_rows(store)
    assert len(rows) == 9
    assert skipped == [f"{other}: a second file for record {path.stem}; delete one of the two"]


def test_packed_records_are_rows_too(store: Store, reads: list[str]) -> None:
    before = read_rows(store)[0].to_dict("records")
    reads.clear()
    assert pack(["suite", "--results", str(store.root), "--method", "lora"]) == 0
    rows, skipped = read_rows(store)
    assert (rows.to_dict("records"), skipped, reads) == (before, [], [])


@pytest.mark.parametrize("content", [b"", b"PAR1 no table", b"{}"])
def test_a_damaged_index_is_made_anew(store: Store, content: bytes) -> None:
    expected = read_rows(store)[0].to_dict("records")
    [path] = (store.work_folder / "index").iterdir()
    path.write_bytes(content)
    assert read_rows(store)[0].to_dict("records") == expected
    path.unlink()
    assert read_rows(store)[0].to_dict("records") == expected


def test_an_index_that_cannot_be_written_is_done_without(store: Store) -> None:
    store.work_folder.mkdir()
    (store.work_folder / "index").write_text("a file where a folder belongs")
    assert len(read_rows(store)[0]) == 9


def test_no_index_leaves_no_file(store: Store) -> None:
    assert len(read_rows(store, use_index=False)[0]) == 9
    assert not store.work_folder.exists()


def test_an_empty_folder_has_no_rows(tmp_path: Path) -> None:
    rows, skipped = read_rows(Store(tmp_path))
    assert (len(rows), skipped) == (0, [])
    assert leaderboard(rows) == []


def _write_and_read(root: str, worker: int) -> int:
    store = Store(root)
    for seed in range(4):
        store.put(make_record(method=f"method{worker}", seed=seed))
        rows, skipped = read_rows(store)
        # what this process wrote is there whatever the others do to the index
        if skipped or sum(rows["method"] == f"method{worker}") != seed + 1:
            return 1
    return 0


def test_processes_share_an_index(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.starmap(_write_and_read, [(os.fspath(tmp_path), worker) for worker in range(2)]) == [0, 0]
    assert len(read_rows(Store(tmp_path))[0]) == 8
