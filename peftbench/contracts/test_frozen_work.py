"""What is said to be frozen under a method is: neither its trainable tensors nor chance change it, in either mode."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from peftbench.backbones.base import Backbone
from peftbench.contracts import backbones
from peftbench.contracts.backbones import images, suited
from peftbench.contracts.test_methods import FAMILIES, default_refusal, fitting, nudge
from peftbench.foundation.seeding import seed_everything
from peftbench.methods.base import METHODS
from peftbench.train.batches import Batches
from peftbench.train.frozen import FrozenWork, frozen_work
from peftbench.train.replay import Replay, kept_values

NUM = 4
SHAPE = {"image": (3, 32, 32)}


def kept_of(backbone: Backbone, work: FrozenWork, seed: int) -> list[Tensor]:
    """The kept outputs for `images()`, whatever the random generators hold."""
    seed_everything(seed)
    values = [torch.empty(NUM, *call.packed_shape, dtype=call.dtype) for call in work.kept]
    batches = Batches({"image": images(NUM)}, {"label": torch.zeros(NUM, dtype=torch.int64)}, batch_size=NUM)
    kept_values(backbone, work.kept, batches, "fp32", values)
    return values


def gradients(backbone: Backbone, module: torch.nn.Module, inputs: list[Tensor]) -> tuple[Tensor, list[Tensor | None]]:
    seed_everything(5)
    backbone.zero_grad(set_to_none=True)
    features = module(*inputs)
    if features.requires_grad:
        (features * torch.linspace(-1, 1, features.numel()).view_as(features)).sum().backward()
    return features.detach(), [parameter.grad for _, parameter in backbone.trainable]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("backbone", FAMILIES)
@pytest.mark.parametrize("name", METHODS.names())
def test_frozen_work_is_frozen(name: str, backbone: str, training: bool) -> None:
    if METHODS.get(name).trains_nothing:
        pytest.skip("nothing trains, so nothing is kept for training")
    if METHODS.get(name).of_pairs:
        backbone = suited(METHODS.get(name), backbone)
    if reason := default_refusal(name, backbone):
        pytest.skip(reason)
    built = backbones.installed(fitting(name), backbone).train(training)
    work = frozen_work(built, (torch.zeros(3, 3, 32, 32),))
    values = kept_of(built, work, seed=0)
    nudge(built)
    for value, again in zip(values, kept_of(built, work, seed=1), strict=True):
        assert torch.equal(value, again), "what is kept follows a trainable tensor or chance"
    if not work.kept:
        return
    replay = Replay(built, work, SHAPE).train(training)
    direct = gradients(built, built, [images(NUM)])
    replayed = gradients(built, replay, [*([images(NUM)] if replay.read else []), *values])
    assert torch.equal(direct[0], replayed[0])
    for gradient, other in zip(direct[1], replayed[1], strict=True):
        assert (gradient is None) == (other is None)
        assert gradient is None or (other is not None and torch.equal(gradient, other))


# the share of the forward pass of a plain transformer of three blocks that need not be repeated, at least
LATE = {
    "linear": 1.0,
    "partial_k": 0.6,
    "lst": 0.9,
    "last": 0.8,
    "dtl": 0.6,
    "e3va": 0.8,
    "vqt": 0.9,
    "synqt": 0.4,
}


@pytest.mark.parametrize("name", LATE)
def test_late_changes_and_side_networks_leave_most_of_the_pass_frozen(name: str) -> None:
    built = backbones.installed(fitting(name), "vit_cls").train()
    assert frozen_work(built, (torch.zeros(3, 3, 32, 32),)).share >= LATE[name]


def test_a_method_that_changes_the_stream_in_every_block_keeps_less_than_a_block() -> None:
    built = backbones.installed(fitting("lora"), "vit_cls").train()
    assert frozen_work(built, (torch.zeros(3, 3, 32, 32),)).share < 1 / 3
