"""Packed records: the same bytes every time, found like files, and a damaged pack named."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from peftbench.cli.commands import pack as pack_command
from peftbench.foundation.errors import RecordError
from peftbench.foundation.identity import fingerprint
from peftbench.records.index import read_rows
from peftbench.records.packed import write_pack
from peftbench.records.reading import read_record
from peftbench.records.store import Store
from tests.record_factory import make_record

RECORDS = [make_record(method=method, seed=seed) for method in ("lora", "vpt") for seed in range(3)]


@pytest.fixture
def main(command: Callable[..., int]) -> Callable[[list[str]], int]:
    return lambda words: command("pack", *words)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    for record in RECORDS:
        store.put(record)
    return store


def texts(store: Store) -> dict[str, str]:
    return {str(path.relative_to(store.root)): path.read_text() for path in store.record_files()}


def test_packing_and_unpacking_gives_the_same_files(main, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_packed_cells_are_found_and_read_like_files(main, store: Store) -> None:
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


def test_a_pack_grows(main, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    main(["suite", "--results", str(store.root), "--method", "lora"])
    main(["suite", "--results", str(store.root)])
    assert "6 records, 3 of them new" in capsys.readouterr().out
    assert len(list(store.all())) == 6


def test_a_file_and_a_pack_with_another_result_are_told_apart(
    main, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
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


def test_nothing_to_pack(main, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suite", "--results", str(tmp_path)]) == 2
    assert "no record files" in capsys.readouterr().err
    assert main(["suite", "--results", str(tmp_path), "--unpack"]) == 2


def test_a_packed_result_is_never_replaced(main, store: Store) -> None:
    main(["suite", "--results", str(store.root)])
    before = store.packs()[0].read_bytes()
    with pytest.raises(RecordError, match="unpack it to measure again"):
        store.put(make_record(seed=0), replace=True)
    assert store.packs()[0].read_bytes() == before


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "sub/x", ".hidden", "", "a b", "-x"])
def test_a_pack_name_is_a_name(main, store: Store, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for action in ([], ["--unpack"]):
        assert main(["--results", str(store.root), *action, "--", name]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith(f"peftbench: '{name}' is not a name for a pack")
    assert len(store.record_files()) == 6 and not list(store.root.glob("**/*.gz"))


def packing(root: Path, *words: str) -> subprocess.Popen[str]:
    words = ("pack", *words, "--results", str(root))
    return subprocess.Popen([sys.executable, "-m", "peftbench", *words], stdout=subprocess.PIPE, text=True)


def test_two_packings_at_once_and_a_killed_one_lose_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    records = [make_record(method=method, seed=seed) for method in ("lora", "vpt") for seed in range(40)]
    for record in records:
        store.put(record)
    both = [packing(tmp_path, "p", "--method", method) for method in ("lora", "vpt")]
    assert [process.wait() for process in both] == [0, 0]
    assert store.record_files() == []
    assert {record.fingerprint for record in store.all()} == {record.fingerprint for record in records}
    # whatever a killed one leaves, files or pack or both, every record is there and the next packing ends the work
    for action in ("--unpack", ""):
        process = packing(tmp_path, "p", *([action] if action else []))
        while process.poll() is None and len(store.record_files()) in (0, 80):
            time.sleep(0.001)
        process.kill()
        process.wait()
        found, skipped = Store(tmp_path).scan()
        assert {record.fingerprint for record in found} == {record.fingerprint for record in records}
        assert skipped == []
    assert packing(tmp_path, "p").wait() in (0, 2)  # 2: it had already moved the last file
    assert store.record_files() == [] and len(list(Store(tmp_path).all())) == 80


def test_a_record_measured_again_while_it_is_packed_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    other = make_record(method="lora", seed=0, accuracy=0.9)
    holds = pack_command.holds_exactly

    def meanwhile(*arguments) -> bool:
        store.put(other, replace=True)
        return holds(*arguments)

    with monkeypatch.context() as patch:
        # the pack does not count yet for a worker that looked before it was there
        patch.setattr(store, "packs", list)
        patch.setattr(pack_command, "holds_exactly", meanwhile)
        assert pack_command.pack(store, store.records_folder / "suite.jsonl.gz", {}) == (6, 6)
    assert [read_record(path) for path in store.record_files()] == [other]


def header(fingerprints: object) -> bytes:
    return json.dumps({"pack": 1, "fingerprints": fingerprints}).encode() + b"\n"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (header(5), "not a pack of records that this version reads"),
        (header([5]), "not a pack of records that this version reads"),
        (b"[" * 100_000, "not a pack of records"),
        (b"x" * 70_000_000, "not a pack of records"),
        (header(["0" * 16]) + b" " * 70_000_000, "damaged after 0 of 1 records"),
        (header(["0" * 16]) + b"\n" * 5_000_000, "holds more than 1 records, its first line names 1"),
        (header([f"{number:016x}" for number in range(2_000)]) + b"\n" * 2_000, "its first line names 2000"),
    ],
)
def test_a_bad_pack_is_named_and_skipped(store: Store, content: bytes, why: str) -> None:
    path = store.records_folder / "bad.jsonl.gz"
    path.write_bytes(gzip.compress(content, 1))
    records, skipped = store.scan()
    assert len(records) == 6 and why in skipped[-1] and len(skipped) <= 1_001
    rows, said = read_rows(store)
    assert len(rows) == 6 and any(why in line for line in said)


@pytest.mark.timeout(60)
def test_pipes_and_folders_named_like_records_are_named_and_skipped(store: Store) -> None:
    beside = store.record_files()[0]
    os.mkfifo(beside.with_name("0" * 16 + ".json"))
    beside.with_name("1" * 16 + ".json").mkdir()
    os.mkfifo(store.records_folder / "pipe.jsonl.gz")
    (store.records_folder / "folder.jsonl.gz").mkdir()
    records, skipped = store.scan()
    rows, said = read_rows(store)
    assert len(records) == len(rows) == 6
    assert len(skipped) == 4 and len(said) >= 3
    for name in ("0" * 16 + ".json", "1" * 16 + ".json", "pipe.jsonl.gz"):
        assert sum(name in line for line in skipped) == sum(name in line for line in said) == 1


IMPOSSIBLE = [("seed", 2**63), ("seed", 10**300), ("correct", 10**300), ("loss", 10**400), ("loss", "NaN")]


@pytest.mark.parametrize("change", IMPOSSIBLE)
def test_a_record_with_an_impossible_number_is_named_and_skipped(store: Store, change: tuple[str, object]) -> None:
    name, value = change
    values = json.loads(RECORDS[0].to_json())
    if name == "seed":
        values["seed"] = values["identity"]["seed"] = value
        values["fingerprint"] = fingerprint(values["identity"])
    else:
        values["metrics"]["test"][name] = value
    path = store.path_of(values["labels"], values["fingerprint"])
    path.write_text(json.dumps(values).replace('"NaN"', "NaN"))
    records, skipped = store.scan()
    rows, said = read_rows(store)
    assert len(records) == len(rows) == (6 if name == "seed" else 5)
    assert [str(path) in line for line in skipped] == [str(path) in line for line in said] == [True]
