"""NOAH's modules start as the first entries of a super-net with 100 of each, whatever the sizes of a sub-net."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from peftbench.backbones.base import Backbone
from peftbench.contracts.backbones import make
from peftbench.foundation.seeding import seeded
from peftbench.methods.base import METHODS, install
from peftbench.methods.noah_subnet import insert
from peftbench.methods.noah_supernet import ELASTIC

WIDTH, SIZES = 48, [[40, 30, 20]] * 3


def subnet(backbone: Backbone) -> None:
    prompts, ranks, widths = SIZES
    install(METHODS.get("noah_subnet")(prompts=prompts, lora_ranks=ranks, adapter_widths=widths), backbone)


def found(backbone: Backbone) -> None:
    install(METHODS.get("noah_supernet")(), backbone, 0, {"sizes": torch.tensor(SIZES)})


def supernet(backbone: Backbone) -> None:
    with seeded(0, "supernet"):
        insert(backbone, list(zip(*SIZES, strict=True)), 0.1, *ELASTIC)


@pytest.mark.parametrize("attach", [subnet, found, supernet])
def test_prompts_and_adapters_have_the_bounds_of_the_super_net(attach: Callable[[Backbone], None]) -> None:
    backbone = make("vit_cls")
    frozen = {id(tensor) for tensor in backbone.parameters()}
    attach(backbone)
    own = {name: tensor.detach() for name, tensor in backbone.named_parameters() if id(tensor) not in frozen}
    bounds = {"tokens": 6 / (101 * WIDTH), "down.weight": 6 / (WIDTH + 100), "up.weight": 6 / (WIDTH + 100)}
    for ending, square in bounds.items():
        drawn = [tensor for name, tensor in own.items() if name.endswith(ending)]
        assert len(drawn) == 3
        for tensor in drawn:
            assert 0.97 * square**0.5 < tensor.abs().max() <= square**0.5
            assert tensor.std() == pytest.approx((square / 3) ** 0.5, rel=0.1)
    assert all(not tensor.any() for name, tensor in own.items() if name.endswith((".bias", "deltas.0.up")))
