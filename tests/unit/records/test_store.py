"""The store: written once, whole, never overwritten, and damaged files never hide the others."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest

from peftbench.foundation import files
from peftbench.foundation.errors import RecordError
from peftbench.records.packed import write_pack
from peftbench.records.reading import read_record
from peftbench.records.record import RunRecord
from peftbench.records.store import Store
from tests.closed_folders import close_folder
from tests.record_factory import make_record, record_values


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_record_is_found_where_its_labels_say(store: Store) -> None:
    record = make_record(method="lora (rank=16)", dataset="vtab/dtd")
    path = store.put(record)
    assert path == store.root / "records" / "vit_b16" / "lora" / "vtab__dtd" / f"{record.fingerprint}.json"
    assert store.find(record.fingerprint) == path
    assert store.find(record.fingerprint, record.labels) == path
    assert store.get(record.fingerprint) == record
    assert store.fingerprints() == {record.fingerprint}


def test_a_record_is_found_under_older_labels(store: Store) -> None:
    record = make_record()
    path = store.put(record)
    assert store.find(record.fingerprint, record.labels | {"dataset": "renamed"}) == path


def test_an_absent_record(store: Store) -> None:
    assert store.find("0" * 16) is None
    assert store.fingerprints() == set()
    with pytest.raises(RecordError, match="no record 0000000000000000 under"):
        store.get("0" * 16)


def test_a_fingerprint_in_capitals_is_the_same(store: Store) -> None:
    plain, packed = make_record(seed=0), make_record(seed=1)
    path = store.put(plain)
    write_pack(store.records_folder / "mine.jsonl.gz", [packed])
    assert store.find(plain.fingerprint.upper()) == path
    for record in (plain, packed):
        assert record.fingerprint.upper() != record.fingerprint
        assert store.get(record.fingerprint.upper()) == record
    assert store.adapter_path(plain.fingerprint.upper()) == store.adapter_path(plain.fingerprint)


@pytest.mark.parametrize("word", ["", "*", "../../../etc/passwd", "0" * 15, "G" * 16])
def test_only_a_fingerprint_is_looked_up(store: Store, word: str) -> None:
    with pytest.raises(RecordError, match="not a fingerprint"):
        store.find(word)


@pytest.mark.parametrize("dataset", ["../../up", "..", "/abs", "a\\b", "nul\0", "x" * 400, "döner pets", ".hidden"])
def test_no_label_leaves_the_records_folder(store: Store, dataset: str) -> None:
    path = store.put(make_record(dataset=dataset))
    assert path.resolve().is_relative_to(store.records_folder.resolve())
    assert len(path.relative_to(store.records_folder).parts) == 4
    assert [record.labels["dataset"] for record in store.all()] == [dataset]


def test_a_record_is_never_overwritten(store: Store) -> None:
    first = make_record(accuracy=0.5)
    path = store.put(first)
    before = everything_in(store.root)
    with pytest.raises(RecordError, match=f"{path} already holds this cell and is never overwritten"):
        store.put(make_record(accuracy=0.9))
    assert everything_in(store.root) == before


def test_a_record_under_older_labels_is_not_written_twice(store: Store) -> None:
    values = record_values()
    path = store.put(RunRecord(**values))
    values["labels"] = values["labels"] | {"dataset": "renamed"}
    with pytest.raises(RecordError, match=f"{path} already holds this cell"):
        store.put(RunRecord(**values))
    assert len(everything_in(store.root)) == 1


def test_a_folder_of_others_that_was_closed_since_costs_no_record(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(make_record(method="lora"))
    pack = store.records_folder / "old.jsonl.gz"
    packed = make_record(method="ssf")
    write_pack(pack, [packed])
    close_folder(monkeypatch, store.records_folder / "vit_b16" / "lora")
    record = make_record(method="linear")
    path = store.put(record)
    assert read_record(path) == record
    with pytest.raises(RecordError, match="already holds this cell"):
        store.put(record)
    with pytest.raises(RecordError, match=r"old\.jsonl\.gz already holds this cell"):
        store.put(packed)


def test_nothing_but_the_record_is_left(store: Store) -> None:
    record = make_record()
    path = store.put(record)
    assert everything_in(store.root) == {str(path.relative_to(store.root)): record.to_json().encode()}
    assert path.stat().st_nlink == 1


@pytest.mark.parametrize("links", [True, False])
def test_of_many_writers_exactly_one_wins(store: Store, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not links:
        refuse_links(monkeypatch)
    record = make_record()
    results: list[Path | None] = []
    barrier = threading.Barrier(8)

    def write() -> None:
        barrier.wait()
        try:
            results.append(store.put(record))
        except RecordError:
            results.append(None)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([path for path in results if path]) == 1
    assert list(everything_in(store.root).values()) == [record.to_json().encode()]


def refuse_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)


def test_without_hard_links_a_record_is_still_exclusive(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_links(monkeypatch)
    record = make_record()
    path = store.put(record)
    assert store.get(record.fingerprint) == record
    with pytest.raises(FileExistsError):
        files.create_text(path, "other")
    assert list(everything_in(store.root).values()) == [record.to_json().encode()]


def test_a_claim_left_by_a_killed_writer_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_links(monkeypatch)
    record = make_record()
    path = store.path_of(record.labels, record.fingerprint)
    claim = path.parent / f".{path.name}.claim"
    claim.parent.mkdir(parents=True)
    claim.touch()
    with pytest.raises(RecordError, match=f"if none is running, remove {claim}"):
        store.put(record)
    claim.unlink()
    assert store.put(record) == path


@pytest.mark.parametrize("call", ["fsync", "link"])
def test_a_full_disk_touches_nothing(store: Store, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(make_record(seed=0))
    before = everything_in(store.root)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    record = make_record(seed=1)
    path = store.path_of(record.labels, record.fingerprint)
    with pytest.raises(
        RecordError, match="no space left on the device; nothing already recorded was touched"
    ) as caught:
        store.put(record)
    assert str(path) in str(caught.value)
    assert everything_in(store.root) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the always-full device of Linux")
def test_a_really_full_device_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def on_full_device(dir: Path, prefix: str, suffix: str) -> tuple[int, str]:
        return os.open("/dev/full", os.O_WRONLY), str(tmp_path / "temporary")

    monkeypatch.setattr(tempfile, "mkstemp", on_full_device)
    with pytest.raises(RecordError, match="no space left on the device"):
        files.create_text(tmp_path / "x.json", "text")
    assert everything_in(tmp_path) == {}


def test_a_file_in_the_way_is_reported(store: Store) -> None:
    store.root.mkdir()
    (store.root / "records").write_text("not a folder")
    with pytest.raises(RecordError, match="cannot write"):
        store.put(make_record())


def test_a_killed_writer_leaves_no_record(store: Store) -> None:
    """kill -9 between writing and linking: readers see nothing, and the cell can be written afterwards."""
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[2]);"
        "from tests.record_factory import make_record; from peftbench.records.store import Store;"
        "os.link = lambda *a: os.kill(os.getpid(), 9); Store(sys.argv[1]).put(make_record())"
    )
    arguments = [sys.executable, "-c", code, str(store.root), str(Path(__file__).parents[3])]
    environment = {**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[2])}
    assert subprocess.run(arguments, env=environment).returncode == -9
    assert len(everything_in(store.root)) == 1
    assert store.scan() == ([], [])
    record = make_record()
    assert store.find(record.fingerprint) is None
    store.put(record)
    assert store.scan() == ([record], [])


def test_damaged_and_foreign_files_are_named_and_skipped(store: Store) -> None:
    good = make_record(seed=0)
    path = store.put(good)
    other = make_record(seed=1)
    (path.parent / "notes.json").write_text('{"hello": 1}')
    (path.parent / "half.json").write_text(other.to_json()[:200])
    (path.parent / "binary.json").write_bytes(b"\xff\xfe\x00")
    (path.parent / "copied.json").write_text(other.to_json())
    (path.parent / "folder.json").mkdir()
    twin = store.records_folder / "vit_b16" / "zzz" / "cifar100" / path.name
    twin.parent.mkdir(parents=True)
    twin.write_text(good.to_json())
    records, skipped = store.scan()
    assert records == [good]
    named = {line.split(": ")[0] for line in skipped}
    names = ("notes.json", "half.json", "binary.json", "copied.json", "folder.json")
    assert named == {str(twin), *(str(path.parent / name) for name in names)}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert list(store.all()) == [good]
    assert [str(warning.message) for warning in caught] == [f"skipped {line}" for line in skipped]


def test_records_come_in_the_order_of_their_paths(store: Store) -> None:
    for method in ("vpt", "bitfit", "lora"):
        store.put(make_record(method=method))
    assert [record.labels["method"] for record in store.all()] == ["bitfit", "lora", "vpt"]


def test_failures_are_kept_apart_from_records(store: Store) -> None:
    record = make_record()
    store.put_failure(record.fingerprint, record.labels, "loss is nan", "Traceback ...")
    store.put_failure(record.fingerprint, record.labels, "loss is nan again", "Traceback ...")
    [failure] = store.failures()
    assert (failure.fingerprint, failure.message) == (record.fingerprint, "loss is nan again")
    assert failure.labels["method"] == "lora"
    assert store.scan() == ([], [])
    store.clear_failure(record.fingerprint)
    store.clear_failure(record.fingerprint)
    assert store.failures() == []


def test_a_damaged_note_of_a_failure_is_named(store: Store) -> None:
    path = store.put_failure("0" * 16, {}, "x", "y")
    path.write_text("{")
    with pytest.raises(RecordError, match=f"{path}: not a note of a failed cell"):
        store.failures()


def test_what_is_not_for_version_control_lies_in_work(store: Store) -> None:
    fingerprint = "0123456789abcdef"
    assert store.adapter_path(fingerprint) == store.root / "work" / "adapters" / f"{fingerprint}.safetensors"
    assert store.predictions_path(fingerprint) == store.root / "work" / "predictions" / f"{fingerprint}.npy"
    assert store.put_failure(fingerprint, {}, "", "").is_relative_to(store.root / "work")
