"""DyT: which patches take the MLP, and the loss, against the network written out block by block in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone
from peftbench.contracts.backbones import images, make
from peftbench.interventions.dispatch import Dispatcher
from peftbench.methods.base import METHODS, install
from peftbench.objectives.base import OBJECTIVES
from peftbench.tasks.classification import classification_loss
from peftbench.tasks.model import Classifier

CLASSES, TEMPERATURE, PREFIX = 5, 5.0, 3  # a class token and two registers
LABELS = torch.tensor([0, 3, 1, 4])


def installed() -> Backbone:
    backbone = make("vit_registers")
    install(METHODS.get("dyt")(bottleneck=4, scale=0.5, dropout=0.0), backbone, seed=5)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for _, tensor in backbone.trainable:
            tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator))
    return backbone.double()


@torch.no_grad()
def reference(backbone: Backbone, batch: Tensor, noises: list[Tensor] | None = None) -> tuple[Tensor, Tensor, float]:
    """Features dispatched and with all patches in each MLP, and the share of patches that take one.

    `noises`: of each block, for the patches of both; none in evaluation.
    """
    net: Any = make("vit_registers").net.double()
    own = {name: tensor.detach() for name, tensor in backbone.trainable}
    features, shares = [], []
    for whole in (False, True):
        x = net._pos_embed(net.patch_embed(batch))
        for layer, block in enumerate(net.blocks):
            w = {name.split(f"blocks.{layer}.")[1]: t for name, t in own.items() if f"blocks.{layer}." in name}
            x = x + block.attn(block.norm1(x))
            scores = x[:, PREFIX:] @ w["dispatcher.score.weight"].T + w["dispatcher.score.bias"]
            if noises is not None:
                scores = (scores + noises[layer].chunk(2)[whole]) / TEMPERATURE
            takes = (scores > 0).double()
            if not whole:
                shares.append(takes.mean())
            gates = torch.cat([torch.ones(len(x), PREFIX, 1).double(), torch.ones_like(takes) if whole else takes], 1)
            hidden = F.relu(x @ w["branch.down.weight"].T + w["branch.down.bias"])
            branch = 0.5 * (hidden @ w["branch.up.weight"].T + w["branch.up.bias"])
            x = x + gates * block.mlp(block.norm2(x)) + branch
        features.append(net.norm(x)[:, 0])
    return features[0], features[1], float(torch.stack(shares).mean())


def test_patches_take_the_mlp_where_their_score_is_positive() -> None:
    backbone = installed().eval()
    expected, _, share = reference(backbone, images(4).double())
    assert 0.1 < share < 0.9
    torch.testing.assert_close(backbone(images(4).double()), expected, rtol=0, atol=1e-12)


def test_the_gradient_of_a_gate_is_that_of_its_sigmoid() -> None:
    dispatcher = Dispatcher(6, 1, TEMPERATURE).double()
    x = torch.randn(2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for training in (False, True):
        dispatcher.train(training).zero_grad()
        torch.manual_seed(0)
        gates = dispatcher(x)
        assert set(gates.flatten().tolist()) <= {0.0, 1.0} and (gates[:, 0] == 1).all()
        (gates * x[..., :1]).sum().backward()
        torch.manual_seed(0)
        noise = drawn(2, 4) if training else 0.0
        soft = ((dispatcher.score(x[:, 1:]) + noise) / (TEMPERATURE if training else 1)).sigmoid()
        assert torch.equal(gates[:, 1:], (soft > 0.5).double())
        slope = soft * (1 - soft) / (TEMPERATURE if training else 1)
        torch.testing.assert_close(dispatcher.score.bias.grad, (slope * x[:, 1:, :1]).sum().view(1).detach())


def drawn(images: int, patches: int) -> Tensor:
    """The difference of two draws from Gumbel(0, 1) for each patch."""
    first, second = (-torch.empty(images, patches, 1, dtype=torch.float64).exponential_().log() for _ in range(2))
    return first - second


@pytest.mark.parametrize("options", [{}, {"share": 0.2, "share_weight": 7.0}])
def test_the_loss_holds_the_share_and_teaches_by_the_whole_network(options: dict[str, float]) -> None:
    backbone = installed()
    model = Classifier(backbone, CLASSES, seed=0).double()
    objective = OBJECTIVES.get("dyt")(**options)
    objective.install(model, nn.Module())
    loss_fn = objective.loss_fn(model, classification_loss())
    batch = {"image": images(4).double(), "label": LABELS}
    torch.manual_seed(0)
    loss = loss_fn(model.train(), batch)
    torch.manual_seed(0)
    own, whole, share = reference(backbone, batch["image"], [drawn(8, 16) for _ in range(3)])
    z, t = (model.head(features).detach().log_softmax(dim=1) for features in (own, whole))
    divergence = (t.exp() * (t - z)).sum() / 4
    picked = z[range(4), LABELS].mean() + t[range(4), LABELS].mean()
    held = options.get("share_weight", 2.0) * (share - options.get("share", 0.5)) ** 2
    assert loss.item() == pytest.approx(float(divergence - picked) + held, rel=1e-10) and divergence > 1e-5
    expected, _, _ = reference(backbone, batch["image"])
    torch.testing.assert_close(model.eval()(batch["image"]), model.head(expected), rtol=0, atol=1e-12)
