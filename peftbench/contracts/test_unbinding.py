"""Gradients that are put together in one pass have the bits of torch's own, under every method."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from peftbench.contracts import backbones
from peftbench.contracts.backbones import suited
from peftbench.contracts.test_methods import default_refusal, fitting, loss_of, nudge
from peftbench.foundation.unbinding import in_one_pass
from peftbench.methods.base import METHODS


@pytest.mark.parametrize("backbone", ["vit_cls", "eva_rope", "beit", "swin"])
@pytest.mark.parametrize("name", METHODS.names())
def test_gradients_have_the_same_bits(name: str, backbone: str) -> None:
    backbone = suited(METHODS.get(name), backbone)
    if METHODS.get(name).trains_nothing or (reason := default_refusal(name, backbone)):
        pytest.skip("nothing trains" if METHODS.get(name).trains_nothing else reason)
    built = nudge(backbones.installed(fitting(name), backbone)).train()

    def gradients(one_pass: bool) -> list[Tensor]:
        torch.manual_seed(0)
        built.zero_grad(set_to_none=True)
        with in_one_pass(one_pass):
            loss = loss_of(built)
            if loss.requires_grad:
                loss.backward()
        return [loss.detach(), *(tensor.grad for _, tensor in built.trainable if tensor.grad is not None)]

    expected, found = gradients(False), gradients(True)
    assert len(expected) == len(found)
    assert all(map(torch.equal, expected, found))
