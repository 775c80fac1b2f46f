"""The last block for the tokens that are read alone gives what the whole block gives, under every method."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone
from peftbench.cells.last_block import BEHIND, OF_BLOCK, LastBlock, last_block
from peftbench.contracts import backbones
from peftbench.contracts.backbones import samples, suited
from peftbench.contracts.test_methods import default_refusal, fitting, loss_of, nudge
from peftbench.methods.base import METHODS
from peftbench.tasks.model import TaskModel
from peftbench.train.batches import Batches
from peftbench.train.options import TrainSpec

# one token, one behind which there are others that nothing reads, two tokens
BACKBONES = ("vit_cls", "eva_split", "vit_distilled")


def found(backbone: Backbone) -> LastBlock:
    given = samples(backbone)
    batches = Batches({"image": given}, {"label": torch.zeros(len(given), dtype=torch.int64)}, batch_size=len(given))

    def loss_fn(model: Any, batch: dict[str, Tensor]) -> Tensor:
        return loss_of(model, batch["image"])

    return last_block(TaskModel(backbone, nn.Identity()), loss_fn, batches, TrainSpec(last_block="read"))


def gradients(backbone: Backbone) -> list[Tensor | None]:
    """The loss and its gradients, without chance."""
    backbone.eval().zero_grad(set_to_none=True)
    loss = loss_of(backbone)
    if loss.requires_grad:
        loss.backward()
    return [loss.detach(), *(tensor.grad for _, tensor in backbone.trainable)]


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", METHODS.names())
def test_loss_and_gradients_are_those_of_the_whole_block(name: str, backbone: str) -> None:
    backbone = suited(METHODS.get(name), backbone)
    if reason := default_refusal(name, backbone):
        pytest.skip(reason)
    built = nudge(backbones.installed(fitting(name), backbone))
    block = found(built)
    assert bool(block.places) != bool(block.why)
    whole = gradients(built)
    with block.in_use():
        cut = gradients(built)
    largest = max(float(expected.abs().max()) for expected in whole if expected is not None)
    for expected, got in zip(whole, cut, strict=True):
        assert (expected is None) == (got is None)
        if expected is not None and got is not None:
            torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-6 * largest)


@pytest.mark.parametrize("name", ["lora", "adaptformer", "vpt_deep", "ssf", "convpass", "full"])
def test_behind_attention_the_last_block_runs_for_the_class_token_alone(name: str) -> None:
    block = found(backbones.installed(fitting(name), "vit_cls"))
    assert block.facts == {"read": [*OF_BLOCK, *BEHIND]} and block.num_tokens == 1


def test_pooled_patches_and_what_reads_the_last_block_need_all_tokens() -> None:
    pooled, read = (found(backbones.installed(fitting(m), b)).why for m, b in (("lora", "vit_avg"), ("dtl", "vit_cls")))
    assert pooled == "the network pools all tokens"
    assert read == "other tokens of the last block are read as well"


@pytest.mark.parametrize(("name", "places"), [("lst", ["norm.final"]), ("hyperadapter", ["mlp", "norm.final"])])
def test_a_method_that_reads_some_places_whole_leaves_the_others(name: str, places: list[str]) -> None:
    assert found(backbones.installed(fitting(name), "vit_cls")).facts == {"read": places}
