"""Whatever asks a run to stop ends it in one way, at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from peftbench.foundation.stopping import INTERRUPTED

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
LINE = "peftbench: interrupted; nothing was recorded for the cell that was running\n"


def stopped(code: str, number: int, ignored: bool = False) -> tuple[int, str, str]:
    """Exit code and output of Python code that says `ready` and is then sent a signal."""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL),
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("number", SIGNALS)
def test_while_packages_are_imported_a_signal_cannot_be_swallowed(number):
    code = """
from peftbench.foundation.stopping import leave_by_signals
leave_by_signals()
import time
print("ready", flush=True)
try:
    time.sleep(30)
except BaseException:
    pass
print("swallowed")
"""
    assert stopped(code, number) == (130, "", LINE)


def test_what_runs_no_cell_says_nothing_of_one(command, monkeypatch, capsys):
    def interrupted(words: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("peftbench.cli.commands.trials.main", interrupted)
    assert command("trials") == INTERRUPTED and capsys.readouterr().err == "peftbench: interrupted\n"
    monkeypatch.setattr("peftbench.cli.launch.launch", interrupted)
    assert command("method=lora", "seed=123") == INTERRUPTED and capsys.readouterr().err == LINE
    code = "from peftbench.foundation.stopping import SHORT, leave_by_signals\nleave_by_signals(SHORT)\n"
    code += "import time\nprint('ready', flush=True)\ntime.sleep(30)"
    assert stopped(code, signal.SIGINT) == (INTERRUPTED, "", "peftbench: interrupted\n")


@pytest.mark.parametrize("number", SIGNALS)
def test_afterwards_a_signal_gives_up_the_claim(number, tmp_path):
    code = f"""
from pathlib import Path
from peftbench.foundation.stopping import leave_by_signals, stop_by_signals
from peftbench.records.claims import Claims
leave_by_signals()
stop_by_signals()
import time
try:
    with Claims(Path({str(tmp_path)!r})).take("0" * 16):
        print("ready", flush=True)
        time.sleep(30)
except KeyboardInterrupt:
    print("interrupted")
"""
    assert stopped(code, number) == (0, "interrupted\n", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", SIGNALS)
def test_what_a_library_swallowed_is_raised_at_the_next_step(number):
    code = """
from peftbench.foundation.stopping import stop_by_signals, stop_if_told
stop_by_signals()
stop_if_told()
import time
try:
    print("ready", flush=True)
    time.sleep(30)
except BaseException:
    pass
try:
    stop_if_told()
except KeyboardInterrupt:
    print("interrupted")
stop_by_signals()
stop_if_told()
print("a new run was not told")
"""
    assert stopped(code, number) == (0, "interrupted\na new run was not told\n", "")


def test_what_is_ignored_stays_ignored():
    code = """
from peftbench.foundation.stopping import stop_by_signals
stop_by_signals()
import time
print("ready", flush=True)
time.sleep(1)
print("went on")
"""
    assert stopped(code, signal.SIGHUP, ignored=True) == (0, "went on\n", "")


def test_a_worker_stops_when_its_parent_is_gone(tmp_path):
    worker = (
        "import os, sys, time; from peftbench.foundation.stopping import stop_with; "
        f"stop_with(os.getppid(), 0.05); open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    )
    parent = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {worker!r}]); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", parent])
    note, deadline = tmp_path / "pid", time.monotonic() + 60
    while not (note.exists() and note.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    pid = int(note.read_text())
    process.kill()
    process.wait()
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
