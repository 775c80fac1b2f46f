"""Whole cells on a GPU: every method runs there, its record names the GPU and repeats bit for bit."""

from __future__ import annotations

import pytest

from peftbench.contracts.backbones import suited
from peftbench.methods.base import METHODS
from peftbench.objectives.base import OBJECTIVES
from peftbench.records.store import Store
from peftbench.train.capture import CAPTURED
from tests.integration.conftest import FEW

# NOAH's subnets ask for sizes of twelve blocks, and its super-net trains for 500 epochs first
OTHERS = {"noah_subnet", "noah_supernet"}
OF_IMAGES = [
    name for name in METHODS.names() if suited(METHODS.get(name), "vit_cls") == "vit_cls" and name not in OTHERS
]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", OF_IMAGES)
def test_a_cell_on_a_gpu_repeats_bit_for_bit(run, results, name, precision):
    words = [f"method={name}", "runtime.device=cuda", f"train.precision={precision}"]
    assert run(*FEW, *words, fast=False) == 0
    (record,) = Store(results).all()
    assert record.provenance["machine"]["device"] == "cuda" and record.provenance["machine"]["gpu"]
    objective = OBJECTIVES.get(record.config.get("objective", {}).get("name", "none"))
    assert (record.cost["capture"] == CAPTURED) != objective.host_waits
    assert run("reproduce", record.fingerprint, "--results", str(results), "runtime.device=cuda", fast=False) == 0
