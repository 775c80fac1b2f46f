"""A cell that keeps its frozen work leaves the numbers of one that computes it in every epoch, bit for bit."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from peftbench.cells import frozen as cells_frozen
from peftbench.records.record import RunRecord
from peftbench.records.store import Store
from tests.integration.conftest import FEW

# three batches, the last one short
WORDS = (*FEW, "train.epochs=3")


def record_of(run, results, *words: str) -> tuple[RunRecord, dict[str, torch.Tensor]]:
    assert run(*WORDS, *words, "runtime.on_existing=rerun", fast=False) == 0
    (record,) = Store(results).all()
    return record, load_file(Store(results).adapter_path(record.fingerprint))


def same(one, other) -> bool:
    (first, tensors), (second, others) = one, other
    numbers = first.metrics == second.metrics and first.curve == second.curve
    return numbers and all(torch.equal(tensors[name], others[name]) for name in tensors.keys() | others.keys())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_kept_in_memory_and_on_disk_it_equals_the_whole_computation(run, results, monkeypatch, precision):
    words = ("method=vqt", f"train.precision={precision}")
    plain = record_of(run, results, *words, "runtime.feature_cache=off")
    assert "kept" not in plain[0].cost
    kept = record_of(run, results, *words, "runtime.feature_cache=auto")
    assert kept[0].cost["kept"]["share"] > 0.9
    # where a kernel rounds by the batch, nothing is kept, and the numbers are the same all the more
    assert kept[0].cost["kept"]["bytes"] > 0 or kept[0].cost["kept"]["why"]
    assert same(plain, kept)
    monkeypatch.setattr(cells_frozen, "free_memory", lambda: 0)
    on_disk = record_of(run, results, *words, "runtime.feature_cache=2")
    assert on_disk[0].cost["kept"] == kept[0].cost["kept"] and same(plain, on_disk)


def test_what_does_not_fit_is_computed_and_the_record_says_why(run, results):
    record, _ = record_of(run, results, "method=partial_k", "runtime.feature_cache=0")
    assert record.cost["kept"]["bytes"] == 0
    assert "GB where runtime.feature_cache allows 0.0" in record.cost["kept"]["why"]


def test_images_that_change_every_epoch_keep_nothing(run, results):
    record, _ = record_of(run, results, "method=partial_k", "train.augment=flip")
    assert "kept" not in record.cost


def test_a_wrong_budget_is_an_error_that_says_what_can_be(run, capsys):
    assert run("runtime.feature_cache=lots") == 2
    assert "runtime.feature_cache must be auto, off or a number of GB, got 'lots'" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["partial_k", "lst", "vqt"])
def test_on_cuda_inside_captured_steps_too(run, results, method):
    words = (f"method={method}", "runtime.device=cuda")
    plain = record_of(run, results, *words, "runtime.feature_cache=off", "runtime.capture=off")
    kept = record_of(run, results, *words)
    assert kept[0].cost["kept"]["bytes"] > 0 or kept[0].cost["kept"]["why"]
    assert same(plain, kept)
