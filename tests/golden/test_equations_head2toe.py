"""Head2Toe: features of every layer and the head that weighs them, written out with plain tensor operations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.cells.evidence import random_evidence
from peftbench.contracts.backbones import images, make
from peftbench.foundation.seeding import seeded
from peftbench.methods.base import METHODS, install
from tests.golden.test_equations import WIDTH, attention, plain

# the first block's input, 3 blocks of four layers, behind the final norm, and the pooled features
SIZES = [WIDTH, *[WIDTH, WIDTH, 4 * WIDTH, WIDTH] * 3, WIDTH, WIDTH]


@torch.no_grad()
def layers(pixels: Tensor) -> list[Tensor]:
    net: Any = make("vit_layerscale").net.double()
    x = net._pos_embed(net.patch_embed(pixels.double()))
    seen = [x]
    for block in net.blocks:
        w = dict(block.named_parameters())
        op = plain(w)
        normed = op("norm1", x)
        attended = op("attn.proj", attention(*op("attn.qkv", normed).split(WIDTH, dim=-1)))
        x = x + w["ls1.gamma"] * attended
        hidden = F.gelu(op("mlp.fc1", op("norm2", x)))
        out = op("mlp.fc2", hidden)
        x = x + w["ls2.gamma"] * out
        seen += [normed, attended, hidden, out]
    return [*seen, net.norm(x)]


def pooled(target_size: int = 0) -> list[Tensor]:
    """Numbers of each layer [batch, numbers]; of 17 tokens in windows where `target_size` is above the width."""
    seen, parts = layers(images(2)), []
    for tokens in seen:
        if target_size <= tokens.shape[2]:
            parts.append(tokens.mean(dim=1))
            continue
        window = int(17 / (target_size / tokens.shape[2]))
        means = [tokens[:, first : first + window].mean(dim=1) for first in range(0, 17 - window + 1, window)]
        parts.append(torch.cat(means, dim=1))
    return [*parts, seen[-1][:, 0]]


@pytest.mark.parametrize("target_size", [0, 150])
@torch.no_grad()
def test_the_chosen_features_of_each_layer_have_length_one(target_size: int) -> None:
    parts, backbone = pooled(target_size), make("vit_layerscale")
    if target_size:  # windows of five tokens of 48, none of 192
        assert [part.shape[1] for part in parts] == [3 * s if s == WIDTH else s for s in SIZES[:-1]] + [WIDTH]
    places = torch.cat(parts, dim=1).shape[1]
    # nothing of the last two layers
    kept = torch.arange(0, places - 2 * parts[-2].shape[1], 7, dtype=torch.int32)
    method = METHODS.get("head2toe")(target_size=target_size)
    install(method, backbone, findings={"kept": kept})
    assert backbone.feature_dim == len(kept) and not backbone.trainable
    expected, start = [], 0
    for part in parts:
        own = [int(place) - start for place in kept if start <= place < start + part.shape[1]]
        if own:
            chosen = part[:, own]
            expected.append(chosen / chosen.norm(dim=1, keepdim=True))
        start += part.shape[1]
    found = backbone.double().eval()(images(2).double())
    torch.testing.assert_close(found.double(), torch.cat(expected, dim=1), rtol=1e-6, atol=1e-6)


def test_scores_are_squared_weights_of_a_head_under_group_lasso() -> None:
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(10, 6, generator=generator).double(), torch.arange(10) % 3
    method = METHODS.get("head2toe")(steps=5, batch_size=4, lasso=0.02, rate=0.3)
    torch.manual_seed(3)
    found = method.scores(features, labels, 3)
    torch.manual_seed(3)
    weight = torch.empty(6, 3).uniform_(-((6 / 9) ** 0.5), (6 / 9) ** 0.5).double()
    tensors, moments = [weight, torch.zeros(3).double()], [[0.0, 0.0], [0.0, 0.0]]
    batches = torch.randperm(10).split(4) * 2
    for step in range(5):
        rate = 0.3 * (1 + torch.cos(torch.tensor(torch.pi * step / 5, dtype=torch.float64))) / 2
        x, y = features[batches[step]], labels[batches[step]]
        # mean over a whole batch, of which the third lacks two
        wrong = ((x @ tensors[0] + tensors[1]).softmax(dim=1) - F.one_hot(y, 3)) / 4
        short = 0.02 * (len(x) / 4) * tensors[0] / tensors[0].norm(dim=1, keepdim=True)
        for number, gradient in enumerate((x.T @ wrong + short, wrong.sum(dim=0))):
            first, second = moments[number]
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            moments[number] = [first, second]
            near = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
            tensors[number] = tensors[number] - rate * near[0] / (near[1].sqrt() + 1e-7)
    torch.testing.assert_close(found, (tensors[0] ** 2).sum(dim=1), rtol=0, atol=1e-12)


def test_the_share_with_the_highest_scores_is_kept() -> None:
    method, backbone = METHODS.get("head2toe")(steps=3, batch_size=16, fraction=0.05), make("vit_cls")
    with seeded(0, "observe"):
        kept = method.observe(random_evidence(backbone))["kept"]
    assert len(kept) == int(sum(SIZES) * 0.05) and torch.equal(kept, kept.unique())
    whole = METHODS.get("head2toe")(fraction=1.0, steps=1)
    everything = whole.observe(random_evidence(backbone))["kept"]
    assert torch.equal(everything, torch.arange(sum(SIZES), dtype=torch.int32))
