"""Standard output that is closed, full, plain ASCII or no longer read never costs a record or shows a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from peftbench.records.store import Store
from tests.conftest import REPOSITORY
from tests.record_factory import make_record

PROGRAM = f"{sys.executable} -m peftbench"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for seed in range(3):
        Store(tmp_path / "results").put(make_record(seed=seed, accuracy=0.5 + seed / 100))
    return tmp_path


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """What bash answers; its exit code is that of peftbench."""
    return subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PEFTBENCH_CACHE": str(folder / "cache"), **environment},
    )


@pytest.mark.parametrize("where", ["| head -0", "| head -1", ">&-", "2>&- >&-"])
def test_a_reader_that_goes_away_is_no_failure(store, where):
    answer = shell(f"{PROGRAM} leaderboard --no-report {where}", store)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert (store / "results" / "leaderboard" / "leaderboard.csv").is_file()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_the_output_is_said(store):
    answer = shell(f"{PROGRAM} leaderboard --no-report > /dev/full", store)
    assert answer.returncode == 1
    assert answer.stderr.startswith("peftbench: standard output cannot be written (No space left on device)")
    assert len(answer.stderr.splitlines()) == 1
    assert (store / "results" / "leaderboard" / "leaderboard.csv").is_file()


def test_an_ascii_terminal_shows_all_it_can(store):
    answer = shell(f"{PROGRAM} leaderboard --no-report", store, PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "51.0 ? 1.0" in answer.stdout


@pytest.mark.parametrize("cache", ["/proc/nope", "~nosuchuser/x", "/dev/null"])
def test_a_cache_that_cannot_be_is_named(tmp_path, cache):
    answer = shell(f"{PROGRAM} data verify digits", tmp_path, PEFTBENCH_CACHE=cache)
    assert answer.returncode in (0, 2) and "Traceback" not in answer.stderr
    assert answer.returncode == 0 or cache in answer.stderr


INTERRUPTED = """
import os, signal, sys, time
from peftbench.cli.output import finish, guard
from peftbench.foundation.stopping import stop_by_signals
guarded = guard()
stop_by_signals()
raising, speaking = signal.getsignal(signal.SIGINT), False
def only_while_speaking(number, frame):
    global speaking
    if speaking:
        speaking = False
        raising(number, frame)
signal.signal(signal.SIGINT, only_while_speaking)
for number in range(20_000):
    try:
        speaking = True
        print(number)
        sys.stdout.flush()
        speaking = False
    except KeyboardInterrupt:
        pass
sys.exit(finish(guarded, 0))
"""


def test_an_interrupt_while_something_is_said_has_nothing_said_twice() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        # a shell's background jobs have it ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        lines = []
        for line in process.stdout:
            lines.append(line.strip())
            if 0 < len(lines) < 19_000 and len(lines) % 50 == 0:
                process.send_signal(signal.SIGINT)
        errors = process.stderr.read()
    assert "Traceback" not in errors
    numbers = [line for line in lines if line]
    assert len(numbers) > 19_000 and len(set(numbers)) == len(numbers)
