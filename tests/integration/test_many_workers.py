"""Four workers on one results folder, killed without warning at random moments: nothing is lost, nothing is doubled."""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from peftbench.records.claims import claims_of
from peftbench.records.record import RunRecord
from peftbench.records.store import Store
from peftbench.sweep.grid import plan_grid
from peftbench.sweep.worker import work

NUM_SEEDS, NUM_WORKERS, NUM_KILLS, DEADLINE_SECONDS = 20, 4, 6, 300
NUM_CELLS = 2 * NUM_SEEDS
WORDS = [
    "method=linear,bitfit",
    f"seed=range({NUM_SEEDS})",
    "dataset=digits",
    "backbone.img_size=8",
    "train=smoke",
    "train.epochs=1",
    "train.batch_size=250",
    "runtime.threads=1",
    "runtime.measure_cost=false",
    "runtime.progress=false",
]


def work_with_log(plan_file: str, log: Path) -> None:
    """One worker, as a launcher starts it, in a process of its own."""
    sys.stdout = log.open("w", buffering=1)
    work(plan_file, threads=1)


class Workers:
    """Processes forked from a server that has loaded torch and done nothing else."""

    def __init__(self, plan_file: Path, logs: Path) -> None:
        self.plan_file, self.logs = plan_file, logs
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["peftbench.cells.parts", "sklearn.datasets", __name__])
        self.alive: list[multiprocessing.process.BaseProcess] = []
        self.number = 0

    def start(self) -> None:
        self.number += 1
        log = self.logs / f"worker{self.number}.log"
        worker = self.context.Process(target=work_with_log, args=(str(self.plan_file), log))
        worker.start()
        self.alive.append(worker)

    def kill(self, worker: multiprocessing.process.BaseProcess) -> None:
        worker.kill()  # SIGKILL: no chance to clean up
        worker.join()
        self.alive.remove(worker)


def numbers(results: Path) -> dict[str, object]:
    """Everything of a record that a run decides, without times and places."""

    def of(record: RunRecord) -> object:
        return record.metrics, record.curve, record.selection, record.params, record.predictions["sha256"]

    records, skipped = Store(results).scan()
    assert skipped == []
    return {record.fingerprint: of(record) for record in records}


@pytest.mark.slow
@pytest.mark.timeout(2 * DEADLINE_SECONDS)
def test_killed_workers_lose_and_double_nothing(results, run, tmp_path, capsys):
    logs = tmp_path / "logs"
    logs.mkdir()
    grid, _ = plan_grid([*WORDS, f"runtime.results={results}"])
    assert len(grid.cells) == NUM_CELLS
    workers = Workers(grid.write(results / "work" / "sweeps"), logs)
    chance = random.Random(os.getpid())
    for _ in range(NUM_WORKERS):
        workers.start()

    def num_records() -> int:
        return len(list((results / "records").glob("*/*/*/*.json")))

    deadline = time.monotonic() + DEADLINE_SECONDS
    for kill in range(NUM_KILLS):
        # spread over the grid by its progress, so that a slow machine is disturbed as often as a fast one
        while num_records() < kill * (NUM_CELLS - 10) // NUM_KILLS and time.monotonic() < deadline:
            assert any(worker.is_alive() for worker in workers.alive), (logs / "worker1.log").read_text()
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 0.5))
        workers.kill(chance.choice(workers.alive))
        workers.start()
    for worker in list(workers.alive):
        workers.kill(worker)
    num_before = num_records()
    assert 0 < num_before <= NUM_CELLS

    assert run("-m", *WORDS, f"runtime.results={results}", "runtime.on_failed=retry", fast=False) == 0
    shown = capsys.readouterr().out
    counts = {state: int(count) for count, state in re.findall(r"(\d+) (done|skipped|failed|missing)", shown)}
    assert counts == {"done": NUM_CELLS - num_before, "skipped": num_before, "failed": 0, "missing": 0}
    said = "\n".join([shown, *(path.read_text() for path in logs.iterdir())])
    finished = Counter(re.findall(r"^record (\S+)$", said, re.MULTILINE))
    assert max(finished.values()) == 1, "a cell was finished twice"
    assert claims_of(Store(results)).running() == {}

    undisturbed = tmp_path / "undisturbed"
    assert run("-m", *WORDS, f"runtime.results={undisturbed}", fast=False) == 0
    disturbed, expected = numbers(results), numbers(undisturbed)
    assert len(disturbed) == NUM_CELLS
    assert disturbed == expected
