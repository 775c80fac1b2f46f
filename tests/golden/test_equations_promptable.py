"""SAM-PARSER's neck and Cross Block Orchestration: counts of the sheet on SAM-B, and the equations."""

from __future__ import annotations

from functools import cache

import pytest
import timm
import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.backbones.build import from_timm
from peftbench.backbones.sam_micro import NAME
from peftbench.contracts.backbones import images, installed, randomised
from peftbench.foundation.errors import ConfigError
from peftbench.methods.base import install
from peftbench.methods.cobot import CobotAdapter, CobotLoRA, QuaternionLinear
from peftbench.methods.lora import LoRA
from peftbench.methods.sam_parser import SAMParser


@cache
def sam_b() -> BackboneShape:
    with torch.device("meta"):
        return from_timm(timm.create_model("samvit_base_patch16", num_classes=0)).shape


def sam_micro() -> Backbone:
    return from_timm(randomised(timm.create_model(NAME, num_classes=0)))


def test_counts_on_sam_b() -> None:
    shape = sam_b()
    assert (shape.family, shape.depth, shape.grid, shape.num_parameters) == ("sam", 12, (64, 64), 89_670_912)
    assert SAMParser(targets=["neck"]).expected_params(shape) == 512
    assert CobotLoRA().expected_params(shape) - LoRA(rank=4).expected_params(shape) == 1_152
    plain = 12 * (2 * 768 * 16 + 768 + 16 + 2 * 768)
    assert CobotAdapter().expected_params(shape) - plain == 1_296


def test_the_neck_moves_by_its_singular_values_alone() -> None:
    """Both convolutions as U diag(s + d) V^T of their kernels, read as matrices."""
    built = sam_micro()
    neck = built.net.get_submodule("neck")
    kernels = [neck[0].weight.clone(), neck[2].weight.clone()]
    x = torch.randn(2, 96, 8, 8, generator=torch.Generator().manual_seed(1))
    install(SAMParser(targets=["neck"]), built)
    moved = [name for name, _ in built.trainable]
    assert moved == [f"net.neck.{place}.coefficients.moves" for place in (0, 2)]
    for (_, offsets), seed in zip(built.trainable, (1, 2), strict=True):
        offsets.data = torch.randn(offsets.shape, generator=torch.Generator().manual_seed(seed))
    new = []
    for kernel, (_, offsets) in zip(kernels, built.trainable, strict=True):
        u, s, v = torch.linalg.svd(kernel.flatten(1), full_matrices=False)
        new.append(((u * (s + offsets.data)) @ v).view_as(kernel))
    expected = F.conv2d(neck[1](F.conv2d(x, new[0])), new[1], padding=1)
    torch.testing.assert_close(neck[2](neck[1](neck[0](x))), expected, rtol=1e-4, atol=1e-4)
    before = built.eval()(images(2))
    SAMParser(targets=["neck"]).merge(built)
    assert type(built.net.get_submodule("neck")[0]) is torch.nn.Conv2d
    torch.testing.assert_close(built(images(2)), before, rtol=1e-4, atol=1e-5)


def hamilton(x: Tensor, h: Tensor) -> Tensor:
    """x times h for quaternions with components [4], written out."""
    a, b, c, d = x
    e, f, g, k = h
    return torch.stack(
        [
            a * e - b * f - c * g - d * k,
            a * f + b * e + c * k - d * g,
            a * g - b * k + c * e + d * f,
            a * k + b * g - c * f + d * e,
        ]
    )


def test_the_quaternion_map_is_a_sum_of_hamilton_products() -> None:
    """Every group of four output numbers is the sum of products of the inputs' groups with one quaternion each."""
    torch.manual_seed(0)
    layer = QuaternionLinear(8)
    assert not layer.parts[0].any() and ((layer.parts[1:] >= 0) & (layer.parts[1:] < 1)).all()
    assert layer.parts.numel() == 8 * 8 // 4
    layer.parts.data.normal_()
    x = torch.randn(8)
    # components lie side by side: numbers 0 and 1 are the real parts of both quaternions
    quaternions, weights = x.view(4, 2), layer.parts.data
    expected = torch.stack(
        [sum(hamilton(weights[:, i, o], quaternions[:, i]) for i in range(2)) for o in range(2)], dim=1
    )
    torch.testing.assert_close(layer(x), expected.flatten(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("inside", ["linear", "quaternion"])
def test_orchestrated_lora(inside: str) -> None:
    method = CobotLoRA(inside=inside)
    built = installed(method, "vit_cls")
    coefficients = built.get_submodule("shared").get_submodule("cobot")
    assert (coefficients.levels == 1).all() and (coefficients.mixing == torch.eye(6)).all()
    generator = torch.Generator().manual_seed(2)
    for _, tensor in built.trainable:
        tensor.data = torch.randn(tensor.shape, generator=generator)
    levels, mixing = coefficients.levels.data, coefficients.mixing.data
    x = torch.randn(2, 5, 48, generator=generator)
    for number, site in enumerate(built.sites("attn.qkv")):
        delta = site.module(x) - site.module.base(x)
        for place, part in enumerate((0, 2)):
            pair = site.module.deltas[str(part)]
            c = (levels @ mixing)[:, 2 * number + place]
            inner = pair.orchestrated
            h = x @ pair.down.weight.T
            told = (h * c + inner.gamma * h) @ inner.inside.weight.T
            torch.testing.assert_close(delta.chunk(3, -1)[part], told @ pair.up.weight.T, rtol=1e-3, atol=1e-3)
        assert not delta.chunk(3, -1)[1].any()


def test_an_orchestrated_adapter() -> None:
    built = installed(CobotAdapter(dropout=0.0), "vit_cls")
    coefficients = built.get_submodule("shared").get_submodule("cobot")
    site = built.sites("mlp")[1]
    adapter = site.module.module
    assert not adapter.up.weight.any()
    generator = torch.Generator().manual_seed(2)
    for _, tensor in built.trainable:
        tensor.data = torch.randn(tensor.shape, generator=generator)
    x = torch.randn(2, 5, 48, generator=generator)
    c = (coefficients.levels @ coefficients.mixing)[:, 1]
    h = adapter.down(F.layer_norm(x, (48,), adapter.norm.weight, adapter.norm.bias))
    told = adapter.orchestrated.inside(c * h + adapter.orchestrated.gamma * h).relu()
    expected = site.module.base(x) + told @ adapter.up.weight.T + adapter.up.bias
    torch.testing.assert_close(site.module(x), expected, rtol=1e-4, atol=1e-4)


def test_what_ties_the_blocks_together_has_a_rate_of_its_own() -> None:
    method = CobotLoRA()
    rates = {name: method.lr_scale(name) for name, _ in installed(method, "vit_cls").trainable}
    fast = {name.rpartition("cobot.")[2] if "cobot." in name else "inside" for name, r in rates.items() if r == 100}
    assert fast == {"levels", "mixing", "inside"} and set(rates.values()) == {1, 100}
    with pytest.raises(ConfigError, match=r"a multiple of 4 for method\.inside=quaternion, got 6"):
        CobotAdapter(rank=6)
