"""Digests of files are remembered, and are never believed where the file may be another one."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from peftbench.foundation import digests
from peftbench.foundation.digests import digests_of, file_state, files_digest, read_anew, settled
from peftbench.foundation.errors import BadInput
from tests.own_images import swap_bytes


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    paths = []
    for name in ("a/1", "a/2", "b/1"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        paths.append(path)
    return paths


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files made just now count as settled."""
    monkeypatch.setattr(digests, "RESOLUTION_NS", -(10**12))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folder and name of every file that is read to the end."""
    seen: list[str] = []
    read = digests._hash_settled

    def watched(path: Path) -> tuple[bytes | None, bytes]:
        seen.append(f"{path.parent.name}/{path.name}")
        return read(path)

    monkeypatch.setattr(digests, "_hash_settled", watched)
    return seen


def sha(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def test_digests_are_those_of_the_bytes(files):
    assert digests_of(files) == [sha("a/1"), sha("a/2"), sha("b/1")]
    assert files_digest(files[:1]) == sha("a/1").hex()
    assert files_digest(files[:2]) == hashlib.sha256(sha("a/1") + sha("a/2")).hexdigest()
    assert digests_of([]) == []
    with pytest.raises(BadInput, match="gone: cannot be read"):
        digests_of([files[0], files[0].with_name("gone")])


def test_settled_files_are_read_once_and_a_changed_one_alone_again(files, old, reads):
    digests_of(files)
    assert sorted(reads) == ["a/1", "a/2", "b/1"]
    assert digests_of(files[::-1]) == [sha("b/1"), sha("a/2"), sha("a/1")]
    assert len(reads) == 3
    swap_bytes(files[1])
    assert digests_of(files) == [sha("a/1"), sha("a/3"), sha("b/1")]
    assert reads[3:] == ["a/2"]


def test_another_file_under_an_old_name_is_read(files, old, reads):
    digests_of(files)
    files[0].unlink()
    files[2].rename(files[0])
    files[1].rename(files[2])
    assert digests_of([files[0], files[2]]) == [sha("b/1"), sha("a/2")]


def test_a_file_that_changed_just_now_is_not_remembered(files, reads):
    digests_of(files)
    digests_of(files)
    assert len(reads) == 6
    state, second = file_state(files[0]), 10**9
    changed = files[0].stat().st_ctime_ns
    assert not settled(state, changed)
    assert not settled(state, changed + 2 * second)
    assert settled(state, changed + 2 * second + 1)


def test_a_file_that_changes_while_it_is_read_is_not_remembered(files, old, reads, monkeypatch):
    hashing = digests._hash

    def disturbed(descriptor: int) -> bytes:
        found = hashing(descriptor)
        os.utime(descriptor, ns=(1, 1))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(digests, "_hash", disturbed)
        digests_of(files[:1])
    digests_of(files[:1])
    assert len(reads) == 2


@pytest.mark.parametrize("damage", [lambda data: b"z" * 64, lambda data: data[:-1], lambda data: data[:-1] + b"z"])
def test_a_damaged_memo_is_not_believed(files, old, reads, tmp_path, damage):
    digests_of(files[:1])
    [table] = (tmp_path / "cache" / "digests").iterdir()
    table.write_bytes(damage(table.read_bytes()))
    assert digests_of(files[:1]) == [sha("a/1")]
    assert len(reads) == 2
    digests_of(files[:1])
    assert len(reads) == 2


def test_reading_anew_reads_all_and_names_what_was_remembered_wrongly(files, old, reads, tmp_path):
    digests_of(files)
    with read_anew() as differing:
        digests_of(files)
    assert differing == set()
    assert len(reads) == 6
    [table] = [path for path in (tmp_path / "cache" / "digests").iterdir() if len(digests._read_table(path)) == 1]
    [state] = digests._read_table(table)
    digests._write_table(table, {state: sha("what a disk that lies would keep")})
    assert digests_of(files[2:]) != [sha("b/1")]
    with read_anew() as differing:
        assert digests_of(files[2:]) == [sha("b/1")]
    assert differing == {files[2]}
    assert digests_of(files[2:]) == [sha("b/1")]


def test_a_memo_that_cannot_be_kept_is_no_failure(files, old, monkeypatch):
    monkeypatch.setenv("PEFTBENCH_CACHE", "/proc/nope")
    assert digests_of(files[:1]) == [sha("a/1")]
