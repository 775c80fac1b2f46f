"""PVeRA in the authors' form, written out with a pair for q and one for v, and the divergence that its loss adds."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from peftbench.backbones.base import Backbone
from peftbench.contracts.backbones import PAIR, images, make
from peftbench.foundation.errors import ConfigError, NotApplicable
from peftbench.methods.base import METHODS, install
from peftbench.methods.vera import SampledProjections
from peftbench.objectives.base import OBJECTIVES
from peftbench.tasks.base import Classes
from peftbench.tasks.classification import classification_loss
from peftbench.tasks.model import Classifier
from peftbench.tasks.vqa import VQA
from peftbench.train.blocks import recomputed
from peftbench.train.options import TrainSpec

RANK, SCALE = 5, 16.0
RELEASED = {"rank": RANK, "form": "released", "scale": SCALE}


def released(seed: int = 0, nudged: bool = True) -> Backbone:
    backbone = make("vit_cls")
    install(METHODS.get("pvera")(**RELEASED), backbone, seed)
    backbone.double()
    if nudged:
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for _, tensor in backbone.trainable:
                tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
    return backbone


def codes(backbone: Backbone, part: str, layer: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and log-variance of the code, B as the release holds it [rank, width] and b, for q or v of a block."""
    module = backbone.get_submodule(f"net.blocks.{layer}.attn.qkv.deltas.{'qkv'.index(part)}")
    down, up = (backbone.get_buffer(f"shared.projections_{part}.{name}") for name in ("down", "up"))
    mean, log_variance = (x @ down.T * module.get_parameter("inner")).chunk(2, dim=-1)
    return mean, log_variance, up.T, module.get_parameter("outer")


@pytest.mark.parametrize("training", [False, True])
def test_q_and_v_are_changed_as_the_release_changes_them(training: bool) -> None:
    backbone = released().train(training)
    site = backbone.sites("attn.qkv")[1].module
    width = backbone.shape.width
    x = torch.randn(3, 7, width, dtype=torch.float64)
    frozen = x @ site.base.weight.T + site.base.bias
    expected = list(frozen.chunk(3, dim=-1))
    torch.manual_seed(4)
    for number, part in ((0, "q"), (2, "v")):
        mean, log_variance, up, scales = codes(backbone, part, 1, x)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance) if training else mean
        expected[number] = expected[number] + SCALE * (z @ up * scales)
    torch.manual_seed(4)
    torch.testing.assert_close(site(x), torch.cat(expected, dim=-1), rtol=0, atol=1e-12)


def test_it_folds_at_the_mean() -> None:
    backbone = released().eval()
    x = images(2).double()
    before = backbone(x)
    METHODS.get("pvera")(**RELEASED).merge(backbone)
    assert not backbone.all_of(SampledProjections)
    torch.testing.assert_close(backbone(x), before, rtol=0, atol=1e-12)


def test_it_starts_as_released() -> None:
    backbone = released(nudged=False)
    width = backbone.shape.width
    down, up = (backbone.get_buffer(f"shared.projections_q.{name}") for name in ("down", "up"))
    assert not torch.equal(down, backbone.get_buffer("shared.projections_v.down"))
    # torch reads a matrix [in, out] as though it were [out, in]
    for tensor, fan in ((down, 2 * RANK), (up, width)):
        bound = math.sqrt(6 / fan)
        assert 0.95 * bound < tensor.abs().max() <= bound
    starts = [module.inner.detach() for module in backbone.all_of(SampledProjections)]
    assert all(bool((inner == inner[0]).all()) and 1e-5 <= float(inner[0]) <= 1 for inner in starts)
    assert len({float(inner[0]) for inner in starts}) == len(starts) == 2 * backbone.shape.depth
    assert all(not module.outer.any() for module in backbone.all_of(SampledProjections))


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Image by image and token by token, as released."""
    return torch.mean(-0.5 * torch.mean(torch.mean(1 + log_variance - mean**2 - log_variance.exp(), dim=-1), dim=-1))


@pytest.mark.parametrize("again", [False, True], ids=["kept", "computed_again"])
def test_the_loss_adds_the_divergence_of_all_codes(again: bool) -> None:
    model = Classifier(released(), 3, 0).double().train()
    objective = OBJECTIVES.get("pvera")(beta=7.0)
    objective.install(model, torch.nn.Module())
    batch = {"image": images(4).double(), "label": torch.tensor([0, 2, 1, 1])}
    base = classification_loss()
    seen: dict[int, Tensor] = {}
    for layer, site in enumerate(model.backbone.sites("attn.qkv")):
        site.module.register_forward_hook(lambda _, given, out, layer=layer: seen.update({layer: given[0].detach()}))
    torch.manual_seed(1)
    expected = base(model, batch).detach()
    for layer, x in seen.items():
        of_both = [divergence(*codes(model.backbone, part, layer, x)[:2]) for part in ("q", "v")]
        expected = expected + sum(of_both) / 2 / 7.0
    blocks = [site.module for site in model.backbone.sites("block")]
    torch.manual_seed(1)
    if again:
        with recomputed(blocks):
            loss = objective.loss_fn(model, base)(model, batch)
            loss.backward()
    else:
        loss = objective.loss_fn(model, base)(model, batch)
        loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    assert all(module.inner.grad is not None for module in model.backbone.all_of(SampledProjections))


@pytest.mark.parametrize("towers", [["text"], ["image", "text"]])
def test_of_a_pair_the_blocks_of_all_its_towers_count(towers: list[str]) -> None:
    pair = make(PAIR)
    install(METHODS.get("pvera")(**RELEASED, towers=towers), pair, 0)
    model = VQA().model(pair, Classes(("yes", "no")), 0).train()
    objective = OBJECTIVES.get("pvera")(beta=7.0)
    objective.install(model, torch.nn.Module())
    texts = pair.written([["red circle"], ["blue"]]).long()
    batch = {"image": images(2), "text": texts, "answers": torch.tensor([[0] * 10, [1] * 10])}
    base = VQA().loss_fn(TrainSpec(), model.inputs)
    said: list[Tensor] = []
    for module in pair.all_of(SampledProjections):
        module.register_forward_hook(
            lambda module, given, out: said.append(
                divergence(*(module.inner * (given[0] @ module._ends()[0].T)).chunk(2, dim=-1))
            )
        )
    torch.manual_seed(1)
    expected = base(model, batch)
    assert len(said) == 2 * sum(len(pair.towers[name].sites("block")) for name in towers)
    expected = expected + torch.stack(said).sum() / 2 / 7.0
    torch.manual_seed(1)
    torch.testing.assert_close(objective.loss_fn(model, base)(model, batch), expected)


def test_the_released_form_is_not_marked_as_adapted() -> None:
    assert METHODS.get("pvera")().remark.startswith("adapted. By default in the PEFT library's form")
    assert METHODS.get("pvera")(**RELEASED).remark == ""


def test_nothing_is_said_without_a_listener_or_in_evaluation() -> None:
    model = Classifier(released(), 3, 0).double()
    for listens in (False, True):
        for module in model.backbone.all_of(SampledProjections):
            module.heard, module.listens = [], listens
        model.train(not listens)(images(2).double())
        assert all(module.heard == [] for module in model.backbone.all_of(SampledProjections))


def test_it_belongs_to_its_method_and_its_start_to_its_form() -> None:
    backbone = make("vit_cls")
    install(METHODS.get("lora")(), backbone, 0)
    with pytest.raises(NotApplicable, match="method=pvera"):
        OBJECTIVES.get("pvera")().install(Classifier(backbone, 3, 0), torch.nn.Module())
    with pytest.raises(ConfigError, match=r"method\.inner_start goes with method\.form=library"):
        METHODS.get("pvera")(form="released", inner_start=0.5)
