"""What the training step asks of every method, so that it can be recorded once and replayed."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone
from peftbench.contracts.backbones import installed, samples, suited
from peftbench.contracts.test_methods import default_refusal, fitting
from peftbench.foundation.seeding import deterministic
from peftbench.methods.base import METHODS, Method
from peftbench.tasks.classification import classification_loss
from peftbench.tasks.model import Classifier
from peftbench.train.batches import Batches
from peftbench.train.blocks import recomputed
from peftbench.train.capture import CAPTURED
from peftbench.train.loop import FitResult, fit
from peftbench.train.optim import param_groups
from peftbench.train.options import OptimSpec, TrainSpec

# the plain transformer, and the ones whose blocks are other code
PLACES = ("vit_cls", "eva_rope", "swin", "convnext")


def set_dropout(backbone: Backbone, rate: float) -> Backbone:
    """Every dropout there is drops at `rate`."""
    for module in backbone.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
    return backbone


def method_on(name: str, backbone: str) -> Method:
    if reason := default_refusal(name, backbone):
        pytest.skip(reason)
    return fitting(name)


@pytest.mark.parametrize("name", METHODS.names())
def test_steps_are_alike_unless_the_method_says_otherwise(name: str) -> None:
    place = suited(METHODS.get(name), "vit_cls")
    method = method_on(name, place)
    backbone = set_dropout(installed(method, place).train(), 0.2)

    def output(others: int) -> Tensor:
        """Draws of the device, here torch's own generator, are the same; all that the host could draw differs."""
        random.seed(others)
        np.random.seed(others)
        torch.manual_seed(0)
        features: Tensor = backbone(samples(backbone))
        return features

    passes = [output(others) for others in range(3)]
    assert all(torch.equal(passes[0], later) for later in passes[1:]) == method.steps_alike


@pytest.mark.parametrize("name", METHODS.names())
def test_blocks_computed_again_change_no_bit(name: str) -> None:
    place = suited(METHODS.get(name), "vit_cls")
    method = method_on(name, place)
    backbone = set_dropout(installed(method, place).train(), 0.2)

    def gradients(again: bool) -> list[Tensor]:
        torch.manual_seed(0)
        backbone.zero_grad(set_to_none=True)
        with recomputed([site.module for site in backbone.sites("block")] if again else []):
            features: Tensor = backbone(samples(backbone))
        if backbone.trainable:
            (features * torch.linspace(-1, 1, features.numel()).view_as(features)).sum().backward()
        return [features.detach(), *(tensor.grad for _, tensor in backbone.trainable if tensor.grad is not None)]

    once, twice = gradients(again=False), gradients(again=True)
    assert len(once) == len(twice)
    assert all(torch.equal(first, second) for first, second in zip(once, twice, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backbone", PLACES)
@pytest.mark.parametrize("name", METHODS.names())
def test_captured_steps_are_the_steps_to_the_bit(name: str, backbone: str) -> None:
    method = method_on(name, backbone)
    if not method.steps_alike:
        pytest.skip("its steps are never captured")
    plain, expected = trained(method, backbone, "not here")
    captured, state = trained(method, backbone, "")
    assert captured.capture == CAPTURED
    assert captured.curve == plain.curve
    assert all(torch.equal(state[key], expected[key]) for key in expected)


def trained(method: Method, backbone: str, against_capture: str) -> tuple[FitResult, dict[str, Tensor]]:
    """Four epochs of 3 steps on random images, with dropout and drop path, on CUDA."""
    with deterministic("cuda"):
        built = set_dropout(installed(method, backbone), 0.2)
        for module in built.modules():
            if type(module).__name__ == "DropPath":
                module.drop_prob = 0.2
        model = Classifier(built, 3, seed=0).to("cuda")
        pixels = torch.randint(256, (20, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
        targets = {"label": np.arange(20) % 3}
        batches = Batches({"image": pixels}, targets, batch_size=8, device="cuda", seed=0, shuffle=True)
        optim, train = OptimSpec(lr=0.01, warmup_epochs=1), TrainSpec(epochs=4, batch_size=8)
        groups = param_groups(model.added, model.head.named_parameters(prefix="head"), optim)
        result = fit(
            model, classification_loss(), batches, None, optim, train, groups, 0, against_capture=against_capture
        )
        return result, model.state_dict()
