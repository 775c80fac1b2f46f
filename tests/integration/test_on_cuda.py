"""Whole cells on a GPU: every method runs there, its record names the GPU and repeats bit for bit."""

from __future__ import annotations

import pytest

from peftbench.foundation.errors import NotApplicable
from peftbench.methods.base import METHODS
from peftbench.objectives.base import OBJECTIVES
from peftbench.records.store import Store
from peftbench.train.capture import CAPTURED
from tests.integration.conftest import FEW


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", METHODS.names())
def test_a_cell_on_a_gpu_repeats_bit_for_bit(run, results, name, precision):
    words = [f"method={name}", "runtime.device=cuda", f"train.precision={precision}"]
    if (code := run(*FEW, *words, fast=False)) == NotApplicable.exit_code:
        pytest.skip("not for images of classes")
    assert code == 0
    (record,) = Store(results).all()
    assert record.provenance["machine"]["device"] == "cuda" and record.provenance["machine"]["gpu"]
    objective = OBJECTIVES.get(record.config.get("objective", {}).get("name", "none"))
    assert (record.cost["capture"] == CAPTURED) != objective.host_waits
    assert run("reproduce", record.fingerprint, "--results", str(results), "runtime.device=cuda", fast=False) == 0
