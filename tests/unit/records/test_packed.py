"""Packed records: the same bytes every time, found like files, and a damaged pack named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from peftbench.cli.commands.pack import main
from peftbench.foundation.errors import RecordError
from peftbench.records.packed import write_pack
from peftbench.records.store import Store
from tests.record_factory import make_record

RECORDS = [make_record(method=method, seed=seed) for method in ("lora", "vpt") for seed in range(3)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    for record in RECORDS:
        store.put(record)
    return store


def texts(store: Store) -> dict[str, str]:
    return {str(path.relative_to(store.root)): path.read_text() for path in store.record_files()}


def test_packing_and_unpacking_gives_the_same_files(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    before = texts(store)
    assert main(["suite", "--results", str(store.root)]) == 0
    assert [path.name for path in store.records_folder.iterdir()] == ["suite.jsonl.gz"]
    assert "6 records, 6 of them new" in capsys.readouterr().out
    assert main(["suite", "--results", str(store.root), "--unpack"]) == 0
    assert texts(store) == before
    assert store.packs() == []


def test_the_order_of_records_does_not_change_the_bytes(tmp_path: Path) -> None:
    write_pack(tmp_path / "a.jsonl.gz", RECORDS)
    write_pack(tmp_path / "b.jsonl.gz", [*RECORDS[::-1], RECORDS[0]])
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_packed_cells_are_found_and_read_like_files(store: Store) -> None:
    main(["suite", "--results", str(store.root), "--method", "lora"])
    pack = store.records_folder / "suite.jsonl.gz"
    for record in RECORDS:
        expected = pack if record.labels["method"] == "lora" else store.path_of(record.labels, record.fingerprint)
        assert store.find(record.fingerprint, record.labels) == expected
        assert store.get(record.fingerprint) == record
    assert store.fingerprints() == {record.fingerprint for record in RECORDS}
    assert sorted(r.fingerprint for r in store.all()) == sorted(r.fingerprint for r in RECORDS)
    with pytest.raises(RecordError, match="already holds this cell"):
        store.put(RECORDS[0])
    assert store.find("0" * 16) is None


def test_a_pack_grows(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    main(["suite", "--results", str(store.root), "--method", "lora"])
    main(["suite", "--results", str(store.root)])
    assert "6 records, 3 of them new" in capsys.readouterr().out
    assert len(list(store.all())) == 6


def test_a_file_and_a_pack_with_another_result_are_told_apart(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    path = store.records_folder / "suite.jsonl.gz"
    write_pack(path, [make_record(method="lora", seed=0, accuracy=0.9)])
    records, skipped = store.scan()
    assert len(records) == 6
    assert [line.split(": ")[1] for line in skipped] == [
        f"a second file for record {RECORDS[0].fingerprint}; delete one of the two"
    ]
    assert main(["suite", "--results", str(store.root)]) == 1
    assert "hold different results of one cell" in capsys.readouterr().err
    assert len(store.record_files()) == 6


def test_a_pack_beside_its_files_is_no_problem(store: Store) -> None:
    write_pack(store.records_folder / "suite.jsonl.gz", RECORDS)
    records, skipped = store.scan()
    assert (len(records), skipped) == (6, [])


def test_a_damaged_pack_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.records_folder / "suite.jsonl.gz"
    write_pack(path, RECORDS)
    lines = gzip.decompress(path.read_bytes()).splitlines()
    lines[2] = b'{"schema": 1}'
    path.write_bytes(gzip.compress(b"\n".join(lines[:-1]) + b"\n"))
    records, skipped = store.scan()
    assert len(records) == 4
    assert "suite.jsonl.gz, line 3: not a complete record" in skipped[0]
    assert "holds 5 records, its first line names 6" in skipped[1]
    path.write_bytes(path.read_bytes()[:-30])
    assert any("damaged after" in line for line in store.scan()[1])
    for content in (b"no gzip", gzip.compress(b"[]\n"), gzip.compress(json.dumps({"pack": 99}).encode())):
        path.write_bytes(content)
        assert store.scan()[0] == []
        assert "suite.jsonl.gz: not a pack of records" in store.scan()[1][0]
        assert store.find(RECORDS[0].fingerprint) is None


def test_nothing_to_pack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suite", "--results", str(tmp_path)]) == 2
    assert "no record files" in capsys.readouterr().err
    assert main(["suite", "--results", str(tmp_path), "--unpack"]) == 2


def test_a_packed_result_is_never_replaced(store: Store) -> None:
    main(["suite", "--results", str(store.root)])
    before = store.packs()[0].read_bytes()
    with pytest.raises(RecordError, match="unpack it to measure again"):
        store.put(make_record(seed=0), replace=True)
    assert store.packs()[0].read_bytes() == before
