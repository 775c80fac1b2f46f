"""Four workers on one results folder, killed without warning at random moments: nothing is lost, nothing is doubled."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from peftbench.results.record import RunRecord
from peftbench.results.store import Store
from peftbench.sweep.state import claims_of

NUM_SEEDS, NUM_KILLS, DEADLINE_SECONDS = 20, 6, 1500
WORDS = [
    "-m",
    "method=linear,bitfit",
    f"seed=range({NUM_SEEDS})",
    "dataset=digits",
    "backbone.img_size=16",
    "train=smoke",
    "train.epochs=1",
    "train.batch_size=250",
    "runtime.threads=1",
    "runtime.measure_cost=false",
    "runtime.progress=false",
]
NUM_CELLS = 2 * NUM_SEEDS


class Workers:
    """Sweeps in processes of their own, each with a log."""

    def __init__(self, results: Path, logs: Path) -> None:
        self.results, self.logs = results, logs
        self.alive: list[subprocess.Popen[bytes]] = []
        self.number = 0

    def start(self) -> None:
        self.number += 1
        log = (self.logs / f"worker{self.number}.log").open("wb")
        command = [sys.executable, "-m", "peftbench", *WORDS, f"runtime.results={self.results}"]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        self.alive.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env))

    def kill(self, worker: subprocess.Popen[bytes]) -> None:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        self.alive.remove(worker)

    def shown(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.logs.iterdir()))


def numbers(results: Path) -> dict[str, object]:
    """Everything of a record that a run decides, without times and places."""

    def of(record: RunRecord) -> object:
        return record.metrics, record.curve, record.selection, record.params, record.predictions["sha256"]

    records, skipped = Store(results).scan()
    assert skipped == []
    return {record.fingerprint: of(record) for record in records}


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_killed_workers_lose_and_double_nothing(results, run, tmp_path, capsys):
    (tmp_path / "logs").mkdir()
    workers = Workers(results, tmp_path / "logs")
    chance = random.Random(0)
    for _ in range(4):
        workers.start()

    def num_records() -> int:
        return len(list((results / "records").glob("*/*/*/*.json")))

    deadline = time.monotonic() + DEADLINE_SECONDS
    for kill in range(NUM_KILLS):
        # spread over the grid by its progress, so that a slow machine is disturbed as often as a fast one
        wanted = (kill + 1) * (NUM_CELLS - 8) // NUM_KILLS
        while num_records() < wanted and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(chance.uniform(0.0, 0.5))
        workers.kill(chance.choice(workers.alive))
        workers.start()
    for worker in list(workers.alive):
        workers.kill(worker)
    assert 0 < num_records() <= NUM_CELLS, workers.shown()

    assert run(*WORDS, f"runtime.results={results}", "runtime.on_failed=retry", fast=False) == 0
    shown = capsys.readouterr().out
    counts = {state: int(count) for count, state in re.findall(r"(\d+) (done|skipped|failed|missing)", shown)}
    assert counts["done"] + counts["skipped"] == NUM_CELLS
    assert counts["failed"] == counts["missing"] == 0
    finished = Counter(re.findall(r"^record (\S+)$", workers.shown() + "\n" + shown, re.MULTILINE))
    assert max(finished.values()) == 1, "a cell was finished twice"
    assert claims_of(Store(results)).running() == {}

    undisturbed = tmp_path / "undisturbed"
    assert run(*WORDS, f"runtime.results={undisturbed}", fast=False) == 0
    disturbed, expected = numbers(results), numbers(undisturbed)
    assert len(disturbed) == NUM_CELLS
    assert disturbed == expected
