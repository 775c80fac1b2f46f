"""Offsets that the channels of the stream share: layer norms subtract them, and LayerScale keeps them from doing so."""

from __future__ import annotations

import pytest
from torch import nn

from peftbench.contracts import test_methods as contract
from peftbench.contracts.backbones import make
from peftbench.methods.base import METHODS, install

CONSTANT = {"shift": "constant", "bias_shift": "constant", "bias_scale": "none"}


@pytest.mark.parametrize(
    ("backbone", "number"),
    [
        # proj and fc2 of three blocks, weights and biases of each
        ("vit_cls", 12),
        ("vit_avg", 12),
        ("eva_split", 12),
        ("vit_layerscale", 0),
        ("beit", 0),
        # biases of all three blocks; weights in the last stage alone, since a merging step reads four tokens at once
        ("swin", 8),
    ],
)
def test_constant_shifts_of_glora_are_declared_lost_where_they_are(backbone: str, number: int) -> None:
    method = METHODS.get("glora")(**CONSTANT, scale="vector", prompt="none")
    built = make(backbone)
    install(method, built)
    constants = {name for name in method.inert(built) if ".supports.b." in name or ".supports.e." in name}
    assert len(constants) == number and all(".proj." in name or ".fc2." in name for name in constants)
    # in double precision their gradient is zero, and no other is
    contract.test_entries_without_gradient_are_the_declared_ones(method, built)


def test_where_the_norms_do_not_subtract_a_mean_nothing_is_lost() -> None:
    built = make("vit_cls")
    install(METHODS.get("glora")(**CONSTANT), built)
    built.net.norm = nn.RMSNorm(48)
    assert not [name for name in METHODS.get("glora")(**CONSTANT).inert(built) if ".supports.b." in name]
