"""Claims: one owner at a time, found dead without asking any clock but the file server's."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from peftbench.records.claims import Claims, Owner

CELL, OTHER = "0123456789abcdef", "fedcba9876543210"


def ended_process() -> tuple[int, str]:
    """Number and identity of a process that is no more."""
    code = "import os; from peftbench.records.claims import _process; print(_process(os.getpid()))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    return int(shown.partition("@")[0]), shown


def plant(claims: Claims, generation: int = 1, **owner: object) -> Path:
    """A claim that somebody else holds."""
    claims.folder.mkdir(parents=True, exist_ok=True)
    path = claims.path_of(CELL, generation)
    path.write_text(json.dumps(dataclasses.asdict(Owner.me()) | owner))
    return path


def test_a_claimed_cell_is_nobody_elses_until_it_is_released(tmp_path):
    claims = Claims(tmp_path / "claims")
    with claims.take(CELL) as claim:
        assert claim.num_deaths == 0
        assert claims.take(CELL) is None
        assert claims.take(OTHER) is not None
        assert set(claims.running()) == {CELL, OTHER}
    assert claims.take(CELL) is not None


def test_an_error_releases_the_cell(tmp_path):
    claims = Claims(tmp_path)
    with pytest.raises(KeyboardInterrupt), claims.take(CELL):
        raise KeyboardInterrupt
    assert claims.running() == {}
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_ended_here_is_dead_at_once(tmp_path):
    claims = Claims(tmp_path)
    pid, process = ended_process()
    plant(claims, pid=pid, process=process)
    assert claims.running() == {}
    with claims.take(CELL) as claim:
        assert claim.num_deaths == 1
        assert claims.take(CELL) is None
    assert list(tmp_path.iterdir()) == []


def test_a_process_number_used_again_does_not_keep_a_claim_alive(tmp_path):
    claims = Claims(tmp_path)
    plant(claims, pid=os.getpid(), process=f"{os.getpid()}@1")
    assert claims.take(CELL) is not None


def test_another_host_is_judged_by_its_last_touch(tmp_path):
    claims = Claims(tmp_path, stale_seconds=100)
    pid, process = ended_process()
    path = plant(claims, host="elsewhere", machine="elsewhere/boot/1", pid=pid, process=process)
    assert claims.take(CELL) is None, "that process is not of this machine; its claim was touched just now"
    os.utime(path, (time.time() - 99, time.time() - 99))
    assert claims.take(CELL) is None
    os.utime(path, (time.time() - 101, time.time() - 101))
    assert claims.take(CELL).num_deaths == 1


def test_clocks_of_hosts_do_not_matter(tmp_path, monkeypatch):
    claims = Claims(tmp_path, stale_seconds=100)
    plant(claims, machine="elsewhere/boot/1")
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert claims.take(CELL) is None
    assert set(claims.running()) == {CELL}


def test_a_claim_that_cannot_be_read_is_respected_until_it_is_stale(tmp_path):
    claims = Claims(tmp_path, stale_seconds=100)
    path = plant(claims)
    path.write_text("{")
    assert claims.take(CELL) is None
    os.utime(path, (time.time() - 101, time.time() - 101))
    assert claims.take(CELL) is not None


def test_a_living_owner_touches_its_claim(tmp_path):
    claims = Claims(tmp_path, stale_seconds=100, beat_seconds=0.02)
    with claims.take(CELL):
        path = claims.path_of(CELL, 1)
        os.utime(path, (1, 1))
        deadline = time.monotonic() + 20
        while path.stat().st_mtime == 1 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert path.stat().st_mtime > 1


def test_of_many_who_find_a_dead_claim_one_gets_the_cell(tmp_path):
    claims = Claims(tmp_path)
    pid, process = ended_process()
    for attempt in range(10):
        plant(claims, pid=pid, process=process)
        start, taken = threading.Barrier(8), []

        def compete(start: threading.Barrier = start, taken: list = taken) -> None:
            start.wait()
            taken.append(claims.take(CELL))

        threads = [threading.Thread(target=compete) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (claim,) = [claim for claim in taken if claim is not None]
        assert claim.num_deaths == 1, attempt
        claim.release()


def test_who_was_taken_over_removes_nothing_of_the_new_owner(tmp_path):
    claims = Claims(tmp_path, stale_seconds=100)
    late = claims.take(CELL)
    path = claims.path_of(CELL, 1)
    held = json.loads(path.read_text()) | {"machine": "elsewhere/boot/1"}
    path.write_text(json.dumps(held))
    os.utime(path, (1, 1))
    new = claims.take(CELL)
    assert new is not None
    late.release()
    assert claims.take(CELL) is None
    assert set(claims.running()) == {CELL}


def test_waiting_for_a_cell_ends_when_its_owner_gives_it_up(tmp_path):
    claims, got = Claims(tmp_path), []
    held = claims.take(CELL)
    waiting = threading.Thread(target=lambda: got.append(claims.wait_for(CELL, poll_seconds=0.01)))
    waiting.start()
    time.sleep(0.1)
    assert got == []
    held.release()
    waiting.join(timeout=30)
    assert got[0].num_deaths == 0 and claims.take(CELL) is None


@pytest.mark.parametrize("ahead", [3600.0, 10.0**9])
def test_a_claim_dated_in_the_future_blocks_nobody_for_longer_than_a_living_one(tmp_path, ahead):
    claims = Claims(tmp_path)
    path = plant(claims, machine="elsewhere")
    os.utime(path, (time.time() + ahead, time.time() + ahead))
    assert claims.running() == {}
    with claims.take(CELL) as claim:
        assert claim is not None and claim.generation == 2
    path = plant(claims)
    path.write_text("not a claim")
    assert claims.take(CELL) is None
    assert str(claims.holder(CELL)) == f"somebody whose claim cannot be read (claim {path})"
    os.utime(path, (time.time() + ahead, time.time() + ahead))
    assert claims.take(CELL) is not None
