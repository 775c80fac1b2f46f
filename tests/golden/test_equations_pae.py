"""PAE: prompts that start at windows of the spectrum, and the loss that ties neighbouring blocks, in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.cells.evidence import random_evidence
from peftbench.contracts.backbones import images, make
from peftbench.foundation.errors import NotApplicable
from peftbench.methods.base import METHODS, install
from peftbench.objectives.base import OBJECTIVES, prepare
from peftbench.tasks.classification import classification_loss
from peftbench.tasks.model import Classifier
from tests.golden.test_equations import WIDTH
from tests.golden.test_equations_vipamin import evidence

PROMPTS, SIZE = 3, 32


def filtered(batch: Tensor, top: int, left: int, window: int) -> Tensor:
    """By the matrix of the discrete Fourier transform, frequency 0 at place 16 of 32."""
    places = torch.arange(SIZE, dtype=torch.float64)
    frequencies = (places - SIZE // 2)[:, None] * places
    forward = torch.exp(-2j * math.pi * frequencies / SIZE)
    rows, columns = (torch.zeros(SIZE, 1, dtype=torch.complex128) for _ in range(2))
    rows[top : top + window] = 1
    columns[left : left + window] = 1
    spectrum = (forward @ batch.to(torch.complex128) @ forward.T) * rows * columns.T
    back = forward.conj().T / SIZE
    return (back @ spectrum @ back.T).real


@torch.no_grad()
def expected(window: int, stride: int) -> list[Tensor]:
    shown = evidence()
    batch = next(iter(shown.images(32)))
    network: Any = make("vit_cls").net.double()
    head = shown.classifier(make("vit_cls").double()).head  # type: ignore[union-attr, operator]
    corners = range(0, SIZE - window + 1, stride)
    losses, views = [], [filtered(batch["image"], top, left, window) for top in corners for left in corners]
    for view in views:
        x = network._pos_embed(network.patch_embed(view))
        for block in network.blocks:
            x = torch.cat([x[:, :1], torch.zeros(len(x), PROMPTS, WIDTH).double(), x[:, 1:]], dim=1)
            x = block(x)
            x = torch.cat([x[:, :1], x[:, 1 + PROMPTS :]], dim=1)
        losses.append(float(F.cross_entropy(head(network.norm(x)[:, 0]), batch["label"])))
    first = []
    for number in sorted(range(len(losses)), key=losses.__getitem__)[:PROMPTS]:
        patches = network._pos_embed(network.patch_embed(views[number]))[:, 1:].flatten(0, 1)
        lengths = (patches**2).sum(dim=1)
        first.append(sum(length * patch for length, patch in zip(lengths, patches, strict=True)) / lengths.sum())
    found = [torch.stack(first)]
    for block in network.blocks[:-1]:
        found.append(block(found[-1][None])[0])
    return found


def test_prompts_start_under_the_windows_that_tell_the_classes() -> None:
    findings = METHODS.get("pae")(num_tokens=PROMPTS, window=9, stride=7).observe(evidence())
    assert list(findings) == ["0", "1", "2"]
    for own, start in zip(findings.values(), expected(9, 7), strict=True):
        torch.testing.assert_close(own, start, rtol=0, atol=1e-9)


def test_too_few_windows_are_refused_and_windows_follow_the_size_of_the_image() -> None:
    method = METHODS.get("pae")(num_tokens=10, stride=12)
    with pytest.raises(NotApplicable, match=r"num_tokens = 10 is more than the 9 windows .*smaller method.stride"):
        method.observe(random_evidence(make("vit_cls")))
    kept = METHODS.get("pae")().under(torch.ones(1, 1, 224, 224).double(), (112 - 15, 112 - 15))
    torch.testing.assert_close(kept, torch.ones(1, 1, 224, 224).double())
    assert METHODS.get("pae")().under(torch.ones(1, 1, 224, 224).double(), (112 - 16, 112 - 15)).abs().max() < 1e-12
    # 27 x 27 windows of 16 x 16 frequencies on 224 x 224, 15 x 15 of 4 x 4 on 32 x 32
    assert [len(METHODS.get("pae")()._along(size)) for size in (224, 32)] == [27, 15]


def test_the_loss_ties_the_prompts_of_neighbouring_blocks_from_the_second_on() -> None:
    backbone = make("vit_twelve")
    objective = OBJECTIVES.get("pae")(step_weight=0.3, rise_weight=0.7, lifted=5)
    dynamics: Any = prepare(objective, backbone, 5, 0)
    generator = torch.Generator().manual_seed(2)
    found = {str(layer): torch.randn(PROMPTS, WIDTH, generator=generator) for layer in range(12)}
    install(METHODS.get("pae")(num_tokens=PROMPTS, dropout=0.0), backbone, 5, found)
    model = Classifier(backbone, 5, seed=0).double()
    objective.install(model, dynamics.double())
    with torch.no_grad():
        for tensor in dynamics.parameters():
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator))
    batch = {"image": images(4).double(), "label": torch.tensor([0, 3, 1, 4])}
    loss = objective.loss_fn(model, classification_loss())(model.train(), batch)
    u, k, root = (tensor.detach() for tensor in (dynamics.lift.weight, dynamics.step, dynamics.root))
    q = root.T @ root / (torch.linalg.svdvals(root).max() ** 2 + 1e-8)
    missed = risen = 0.0
    for layer in range(1, 11):
        z, following = (found[str(number)].double() @ u.T for number in (layer, layer + 1))
        rises = []
        for row in z:
            led = row @ k
            small, large = (point / max(float(point.norm() + 1e-8), 1.0) for point in (row, led))
            rises.append(torch.log1p(torch.exp(large @ q @ large - small @ q @ small)))
        missed += float(((z @ k - following) ** 2).mean())
        risen += float(10 * torch.tanh(torch.stack(rises).mean() / 10))
    expected = F.cross_entropy(model(batch["image"]), batch["label"]).item() + 0.3 * missed + 0.7 * risen
    assert loss.item() == pytest.approx(expected, rel=1e-10)
