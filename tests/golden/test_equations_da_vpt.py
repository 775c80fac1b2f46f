"""DA-VPT: groups of classes, prompts that are drawn to them, and the loss, against independent computations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from peftbench.backbones.base import Backbone
from peftbench.cells.evidence import random_evidence
from peftbench.contracts.backbones import images, make
from peftbench.interventions.guided import Guidance, grouped
from peftbench.methods.base import METHODS, install
from peftbench.objectives.base import OBJECTIVES
from peftbench.tasks.classification import classification_loss
from peftbench.tasks.model import Classifier
from tests.golden.test_equations import WIDTH, block, plain

CLASSES, PROMPTS, OTHERS = 5, 3, 4
GROUPS = torch.tensor([2, 0, 0, 1, 2])
LABELS = torch.tensor([0, 3, 4, 4])


def installed(**options: Any) -> Backbone:
    """The method on a tiny ViT in double precision, all of its tensors moved off their start."""
    backbone = make("vit_layerscale")
    method = METHODS.get("da_vpt")(num_tokens=OTHERS, num_guided=PROMPTS, guided_depth=2, **options)
    install(method, backbone, 5, {"groups": GROUPS, "centroids": torch.zeros(PROMPTS, WIDTH)})
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for _, tensor in backbone.trainable:
            tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator))
    return backbone.double().eval()


def anchored(x: Tensor, prompts: Tensor) -> float:
    """Proxy-Anchor, pair by pair: alpha 32, delta 0.1, cosines times 5."""
    total = 0.0
    for number, prompt in enumerate(prompts):
        near = far = 1.0
        for row, label in zip(x, LABELS, strict=True):
            s = 5 * float(row @ prompt / row.norm() / prompt.norm())
            if GROUPS[label] == number:
                near += torch.tensor(-32 * (s - 0.1), dtype=torch.float64).exp().item()
            else:
                far += torch.tensor(32 * (s + 0.1), dtype=torch.float64).exp().item()
        total += float(torch.tensor(near).log() + torch.tensor(far).log()) / len(prompts)
    return total


@torch.no_grad()
def reference(backbone: Backbone) -> tuple[Tensor, float]:
    """Features of a network with these tensors, and the loss of its guided blocks, weights 0.3 and 0.7."""
    net: Any = make("vit_layerscale").net.double()
    own = {name.replace(".base.", "."): tensor.detach() for name, tensor in backbone.trainable}
    net.cls_token.copy_(own["net.cls_token"])
    x, pulled = net._pos_embed(net.patch_embed(images(4).double())), 0.0
    for layer, bare in enumerate(net.blocks):
        w = {name: tensor.detach().clone() for name, tensor in bare.named_parameters()}
        for name in ("norm1.weight", "norm1.bias", "norm2.bias", "attn.proj.bias", "mlp.fc2.bias"):
            w[name] = own[f"net.blocks.{layer}.{name}"]
        w["attn.qkv.bias"][2 * WIDTH :] += own[f"net.blocks.{layer}.attn.qkv.behind.2.offset"]
        prompts = own[f"net.blocks.{layer}.tokens"][0]
        x = torch.cat([x[:, :1], prompts.expand(4, -1, -1), x[:, 1:]], dim=1)
        if layer > 0:
            op = plain(w)
            query = op("attn.qkv", op("norm1", x[:, 0]))[:, :WIDTH]
            patches = x[:, 1 + len(prompts) :].mean(dim=1)
            pulled += 0.5 * (0.3 * anchored(patches, prompts) + 0.7 * anchored(query, prompts))
        x = block_of_four(x, w)
        x = torch.cat([x[:, :1], x[:, 1 + len(prompts) :]], dim=1)
    return net.norm(x)[:, 0], pulled


def block_of_four(x: Tensor, w: dict[str, Tensor]) -> Tensor:
    return torch.cat([block(half, w, plain(w)) for half in x.split(2)])


def test_guided_prompts_are_drawn_to_patches_and_queries_of_their_classes() -> None:
    backbone = installed()
    model = Classifier(backbone, CLASSES, seed=0).double()
    objective = OBJECTIVES.get("da_vpt")(patch_weight=0.3, class_weight=0.7)
    objective.install(model, torch.nn.Module())
    features, pulled = reference(backbone)
    torch.testing.assert_close(model.eval()(images(4).double()), model.head(features), rtol=0, atol=1e-12)
    loss = objective.loss_fn(model, classification_loss())(
        model.train(), {"image": images(4).double(), "label": LABELS}
    )
    expected = torch.nn.functional.cross_entropy(model.head(features), LABELS).item() + pulled
    assert loss.item() == pytest.approx(expected, rel=1e-5) and pulled > 1


def test_prompts_start_as_the_released_tensors_of_all_their_blocks() -> None:
    backbone = make("vit_twelve")
    found = {"groups": torch.arange(12) % 10, "centroids": torch.zeros(10, WIDTH)}
    install(METHODS.get("da_vpt")(guided_depth=4), backbone, 5, found)
    own = [tensor.detach() for name, tensor in backbone.trainable if name.endswith("tokens")]
    for part, (blocks, number) in ((own[:8], (8, 20)), (own[8:], (4, 10))):
        drawn = torch.cat(part)
        bound = (6 / ((blocks + number) * WIDTH)) ** 0.5 / 8
        assert drawn.shape == (blocks, number, WIDTH) and 0.95 * bound < drawn.abs().max() <= bound


def test_classes_are_grouped_by_the_cosine_of_their_normed_means() -> None:
    centres = torch.nn.functional.one_hot(torch.tensor([0, 3, 6]), 8).double() * 5
    members = torch.tensor([0, 1, 2, 0, 1, 2, 2])
    means = centres[members] * torch.linspace(0.5, 2, 7, dtype=torch.float64)[:, None]
    means = torch.cat([means, torch.zeros(1, 8, dtype=torch.float64)])
    start = torch.nn.functional.layer_norm(centres, (8,)) + 0.3
    centroids, groups = grouped(means, 3, start)
    assert groups[:7].tolist() == members.tolist() and 0 <= groups[7] < 3
    rows = (means[:7] - means[:7].mean(dim=1, keepdim=True)) / (
        means[:7].var(dim=1, unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    expected = torch.stack([rows[members == number].mean(dim=0) for number in range(3)])
    torch.testing.assert_close(centroids, expected, rtol=0, atol=1e-12)


def test_groups_move_behind_an_epoch_from_the_second_on_by_that_epochs_means() -> None:
    start = torch.eye(8)[[0, 3]] * 5
    guidance = Guidance(torch.tensor([0, 0, 1]), torch.nn.functional.layer_norm(start, (8,)))
    guidance.renew_from = 1
    seen, labels = torch.eye(8)[[0, 3, 3, 3]] * 5, torch.tensor([0, 1, 1, 2])
    for expected in ([0, 0, 1], [0, 1, 1]):
        guidance.add(seen, labels)
        guidance.renew()
        assert guidance.groups.tolist() == expected and not guidance.counts.any()
    still = Guidance(torch.tensor([0, 0, 1]), start)
    still.epoch = 5
    still.add(seen, labels)
    still.renew()
    assert still.groups.tolist() == [0, 0, 1]


def test_as_many_prompts_as_classes_have_one_each_and_more_are_not_made() -> None:
    found = METHODS.get("da_vpt")(num_guided=10).observe(random_evidence(make("vit_cls"), num_classes=4))
    assert found["groups"].tolist() == [0, 1, 2, 3] and len(found["centroids"]) == 4
    grouped_found = METHODS.get("da_vpt")(num_guided=2).observe(random_evidence(make("vit_cls"), num_classes=4))
    assert len(grouped_found["centroids"]) == 2 and set(grouped_found["groups"].tolist()) == {0, 1}


def test_groups_that_move_leave_what_was_found_as_it_is() -> None:
    found, start = torch.tensor([0, 1, 1, 0]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    guidance = Guidance(found, start)
    guidance.renew_from, guidance.epoch = 1, 1
    guidance.add(torch.tensor([[0.0, 3.0], [3.0, 0.0], [3.0, 0.0], [0.0, 3.0]]), torch.arange(4))
    guidance.renew()
    assert guidance.groups.tolist() != found.tolist() == [0, 1, 1, 0]
    assert start.tolist() == [[1.0, 0.0], [0.0, 1.0]]
