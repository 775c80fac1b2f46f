"""Cells of one serial sweep share weights and data, and leave what each leaves in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from peftbench.backbones import build
from peftbench.cells import shared
from peftbench.records.record import RunRecord
from peftbench.records.store import Store
from tests.integration.conftest import FEW

METHODS = ("lora", "hst")
COMMON = (*FEW, "runtime.threads=1")


def by_words(results: Path) -> dict[tuple[str, int], RunRecord]:
    return {(record.identity["method"]["name"], record.seed): record for record in Store(results).all()}


def test_a_sweep_equals_its_cells_run_alone(run, results, tmp_path, monkeypatch):
    built: list[object] = []
    monkeypatch.setattr(shared, "build_backbone", lambda *a: built.append(a) or build.build_backbone(*a))
    assert run(*COMMON, "-m", f"method={','.join(METHODS)}", "seed=0,1", fast=False) == 0
    assert len(built) == 1, "four cells, one backbone"
    together = by_words(results)
    method, seed, alone = "hst", 1, tmp_path / "alone"
    words = [*COMMON, f"method={method}", f"seed={seed}", f"runtime.results={alone}"]
    command = [sys.executable, "-m", "peftbench", *words]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    (record,) = Store(alone).all()
    other = together[method, seed]
    assert (record.fingerprint, record.metrics, record.curve) == (other.fingerprint, other.metrics, other.curve)
    tensors, others = (load_file(Store(r).adapter_path(record.fingerprint)) for r in (alone, results))
    assert tensors.keys() == others.keys() and all(torch.equal(tensors[name], others[name]) for name in tensors)


def test_what_was_made_last_is_held_and_nothing_older():
    last: shared.Last[object] = shared.Last()
    made: list[str] = []
    for key in ("a", "a", "b", "a"):
        last.of(key, lambda key=key: made.append(key) or key)
    assert made == ["a", "b", "a"]


def test_outside_a_sweep_nothing_is_held():
    with shared.sharing():
        with shared.sharing():
            assert shared._shared.get() is not None
        assert shared._shared.get() is not None, "the outermost one holds"
    assert shared._shared.get() is None
