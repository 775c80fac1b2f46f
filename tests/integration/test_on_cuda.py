"""Whole cells on a GPU: every method runs there, its record names the GPU and repeats bit for bit."""

from __future__ import annotations

import pytest

from peftbench.methods.base import METHODS
from peftbench.records.store import Store
from tests.integration.conftest import FEW

NOT_APPLICABLE = 3


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", METHODS.names())
def test_a_cell_on_a_gpu_repeats_bit_for_bit(run, results, name, precision):
    method = METHODS.get(name)
    words = [f"method={name}", "runtime.device=cuda", f"train.precision={precision}"]
    if (code := run(*FEW, *words, fast=False)) == NOT_APPLICABLE:
        pytest.skip("not for images of classes")
    assert code == 0
    (record,) = Store(results).all()
    assert record.provenance["machine"]["device"] == "cuda" and record.provenance["machine"]["gpu"]
    if not method.trains_nothing:
        assert record.cost["capture"]
    assert run("reproduce", record.fingerprint, "--results", str(results), "runtime.device=cuda", fast=False) == 0
