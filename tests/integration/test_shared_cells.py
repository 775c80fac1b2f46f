"""Cells of one serial sweep share weights and data, and leave what each leaves in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from peftbench.backbones import build
from peftbench.cells import frozen, parts, shared
from peftbench.records.record import RunRecord
from peftbench.records.store import Store
from peftbench.train import replay
from tests.integration.conftest import FEW

METHODS = ("linear", "lst")
COMMON = (*FEW, "train.epochs=3", "runtime.threads=1")


def by_words(results: Path) -> dict[tuple[str, float], RunRecord]:
    found = Store(results).all()
    return {(record.identity["method"]["name"], record.identity["optim"]["lr"]): record for record in found}


def test_a_sweep_equals_its_cells_run_alone(run, results, tmp_path, monkeypatch):
    built: list[object] = []
    monkeypatch.setattr(shared, "build_backbone", lambda *a: built.append(a) or build.build_backbone(*a))
    assert run(*COMMON, "-m", f"method={','.join(METHODS)}", "optim.lr=0.01,0.02", fast=False) == 0
    assert len(built) == 1, "four cells, one backbone"
    together = by_words(results)
    # the second rate finds the frozen work of the first, where kernels do not round by the batch
    for method in METHODS:
        first, second = (together[method, rate].cost.get("kept", {}) for rate in (0.01, 0.02))
        assert "found" not in first and ("why" in second or second["found"] == 1)
    alone = tmp_path / "alone"
    for method in METHODS:
        words = [*COMMON, f"method={method}", "optim.lr=0.02", f"runtime.results={alone}"]
        command = [sys.executable, "-m", "peftbench", *words]
        subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    for record in Store(alone).all():
        other = together[record.identity["method"]["name"], 0.02]
        assert (record.fingerprint, record.metrics, record.curve) == (other.fingerprint, other.metrics, other.curve)
        assert "found" not in record.cost.get("kept", {})
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


def test_frozen_work_of_other_weights_is_not_taken_for_ones_own(run, results, monkeypatch):
    """Frozen tensors that the second cell has otherwise: what is held is seen to be another model's."""
    found: list[bool] = []
    monkeypatch.setattr(frozen, "agree", lambda *a: found.append(replay.agree(*a)) or found[-1])
    drawn = build.build_backbone
    shifts = iter(range(2))

    def other(*asked):
        backbone = drawn(*asked)
        with torch.no_grad():
            backbone.net.norm.bias.add_(next(shifts))
        return backbone

    monkeypatch.setattr(shared, "backbone_of", lambda config: other(config.backbone))
    monkeypatch.setattr(parts, "backbone_of", shared.backbone_of)
    assert run(*COMMON, "-m", "method=linear", "optim.lr=0.01,0.02", fast=False) == 0
    assert found and not any(found)
    assert all("found" not in record.cost.get("kept", {}) for record in Store(results).all())
