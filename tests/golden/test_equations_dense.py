"""Systems of dense prediction: their counts on the published networks, and their equations written out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone
from peftbench.backbones.build import from_timm
from peftbench.backbones.maps import feature_maps, taps_of
from peftbench.contracts.backbones import TWELVE_BLOCKS, images, make
from peftbench.interventions.deformable import DeformableAttention, centres, sampled
from peftbench.methods.base import METHODS, install
from peftbench.tasks.decoders import DECODERS


def on_meta(model: str) -> Backbone:
    with torch.device("meta"):
        return from_timm(timm.create_model(model, pretrained=False, num_classes=0))


@pytest.mark.parametrize(
    ("size", "count"), [("tiny", 2_438_192), ("small", 5_830_160), ("base", 13_680_608), ("large", 23_236_800)]
)
def test_vit_adapter_adds_what_its_code_adds(size: str, count: int) -> None:
    backbone = on_meta(f"vit_{size}_patch16_224")
    method = METHODS.get("vit_adapter")()
    assert method.expected_params(backbone.shape) == count
    install(method, backbone)
    assert sum(tensor.numel() for _, tensor in backbone.trainable) == count
    trained = METHODS.get("vit_adapter")(train_backbone=True)
    # the final norm is gone around
    assert trained.expected_params(backbone.shape) == count + backbone.shape.num_parameters - 2 * backbone.shape.width


@pytest.mark.parametrize(
    ("model", "options", "count"),
    [
        ("swin_base_patch4_window7_224", {}, 1_197_312),
        ("swin_large_patch4_window7_224", {}, 1_792_896),
        ("swin_base_patch4_window7_224", {"num_branches": 4}, 2_358_528),
        ("swin_base_patch4_window7_224", {"num_branches": 4, "share_kernels": False}, 2_370_816),
    ],
)
def test_lorand_on_swin(model: str, options: dict[str, Any], count: int) -> None:
    """1.20 M and 1.79 M as published; with kernels of their own, as in the authors' code, beside it."""
    backbone, method = on_meta(model), METHODS.get("lorand")(**options)
    install(method, backbone)
    assert sum(tensor.numel() for _, tensor in backbone.trainable) == count == method.expected_params(backbone.shape)


@pytest.mark.parametrize(("size", "count"), [("base", 3_667_456), ("large", 5_267_712)])
def test_mona_on_swin(size: str, count: int) -> None:
    """4.16 M and 5.08 M are printed, and no code gives them."""
    assert METHODS.get("mona")().expected_params(on_meta(f"swin_{size}_patch4_window7_224").shape) == count


@pytest.mark.parametrize(
    ("method", "options", "base", "large"),
    [("adapter_houlsby", {"bottleneck": 64}, 3_107_328, 4_659_456), ("lora", {"rank": 64}, 3_080_192, 4_620_288)],
)
def test_rows_that_mona_is_compared_with(method: str, options: dict[str, Any], base: int, large: int) -> None:
    """Two adapters a block; queries and values at rank 64. Published as 3.11 and 4.66, 3.03 and 4.57 M."""
    for size, count in (("base", base), ("large", large)):
        assert METHODS.get(method)(**options).expected_params(on_meta(f"swin_{size}_patch4_window7_224").shape) == count


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_places_are_read_as_grid_sample_reads_them(dtype: torch.dtype) -> None:
    values = torch.randn(3, 20, 4, dtype=dtype, requires_grad=True)
    where = 1.4 * torch.rand(3, 9, 2, dtype=dtype) - 0.2
    found = sampled(values, (4, 5), where)
    maps = values.transpose(1, 2).unflatten(2, (4, 5))
    expected = F.grid_sample(maps, 2 * where[:, None] - 1, align_corners=False)[:, :, 0].transpose(1, 2)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    mine, theirs = (torch.autograd.grad((out * weights).sum(), values)[0] for out in (found, expected))
    torch.testing.assert_close(mine, theirs)
    assert centres((2, 2), values.device).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]


def by_hand(attention: DeformableAttention, q: Tensor, place: Tensor, values: Tensor, sizes: list) -> Tensor:
    """One query: sum over heads, levels and points of weight times the value at place + offset."""
    heads, levels, points = attention.shape
    offsets = attention.offsets(q).view(heads, levels, points, 2)
    weights = attention.weights(q).view(heads, levels * points).softmax(-1).view(heads, levels, points)
    projected = attention.value(values).split([h * w for h, w in sizes])
    parts = []
    for head in range(heads):
        total = 0
        for level, (h, w) in enumerate(sizes):
            part = projected[level].unflatten(1, (heads, -1))[:, head].unflatten(0, (h, w))
            for point in range(points):
                scale = torch.tensor([w, h])
                x, y = ((place + offsets[head, level, point] / scale) * scale - 0.5).tolist()
                for column in (math.floor(x), math.floor(x) + 1):
                    for row in (math.floor(y), math.floor(y) + 1):
                        if 0 <= column < w and 0 <= row < h:
                            share = (1 - abs(x - column)) * (1 - abs(y - row))
                            total = total + weights[head, level, point] * share * part[row, column]
        parts.append(total)
    return attention.output(torch.cat(parts))


def test_deformable_attention_is_its_equation() -> None:
    torch.manual_seed(0)
    attention, sizes = DeformableAttention(8, 2, 2, 3, 0.5), [(3, 4), (2, 2)]
    attention.reset()
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.5)
    queries, values, places = torch.randn(2, 3, 8), torch.randn(2, 16, 8), torch.rand(3, 2)
    found = attention(queries, places, values, sizes)
    for sample in range(2):
        for number in range(3):
            expected = by_hand(attention, queries[sample, number], places[number], values[sample], sizes)
            torch.testing.assert_close(found[sample, number], expected, rtol=1e-4, atol=1e-5)


def test_at_the_start_a_head_looks_along_a_ray_and_weighs_evenly() -> None:
    attention = DeformableAttention(16, 4, 1, 2, 1.0)
    attention.reset()
    steps = attention.offsets(torch.randn(16)).view(4, 2, 2)
    torch.testing.assert_close(steps[0], torch.tensor([[1.0, 0.0], [2.0, 0.0]]))
    torch.testing.assert_close(steps[1], torch.tensor([[0.0, 1.0], [0.0, 2.0]]), atol=1e-6, rtol=0)
    assert not attention.weights(torch.randn(16)).any()


@torch.no_grad()
def test_vit_adapter_leaves_the_tokens_at_the_start_and_extracts_four_times() -> None:
    backbone, bare = make("vit_twelve"), make("vit_twelve")
    install(METHODS.get("vit_adapter")(), backbone)
    stream, branch = backbone.eval().net.forward_features(images(2))
    seen = []
    for site in bare.sites("block"):
        site.module.register_forward_hook(lambda m, i, output: seen.append(output))
    bare.net.forward_features(images(2))
    assert torch.equal(stream, seen[-1]), "the injector's gamma is zero"
    for found, layer in zip(branch.seen, (2, 5, 8, 11), strict=True):
        assert torch.equal(found.flatten(2).transpose(1, 2), seen[layer][:, 1:])
    assert branch.sizes == ((4, 4), (2, 2), (1, 1)) and branch.finest.shape == (2, 48, 8, 8)


@torch.no_grad()
def test_vit_adapters_pyramid_is_its_equation() -> None:
    backbone = TWELVE_BLOCKS["vit_twelve"]()
    install(METHODS.get("vit_adapter")(), backbone)
    taps = taps_of(backbone.eval(), 4)
    maps = feature_maps(backbone, (images(2),), taps.layers)
    assert taps.widths == (48,) * 4 and [m.shape[2] for m in maps] == [8, 4, 2, 1]
    _, branch = backbone.net.forward_features(images(2))
    outlet = backbone.readout
    c3 = branch.tokens[:, 16:20].transpose(1, 2).unflatten(2, (2, 2))
    x3 = F.interpolate(branch.seen[2], (2, 2), mode="bilinear", align_corners=False)
    torch.testing.assert_close(maps[2], outlet.norms[2](c3 + x3))
    c1 = outlet.up(branch.tokens[:, :16].transpose(1, 2).unflatten(2, (4, 4))) + branch.finest
    x1 = F.interpolate(branch.seen[0], (8, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(maps[0], outlet.norms[0](c1 + x1))
    torch.testing.assert_close(backbone(images(2)), torch.cat([m.mean((2, 3)) for m in maps], dim=1))


def test_e3va_on_swin() -> None:
    """LoRand's adapters at the published size, and the final norm."""
    assert METHODS.get("e3va")().expected_params(on_meta("swin_base_patch4_window7_224").shape) == 1_197_312 + 2 * 1024


def test_vpt_on_setr_pup() -> None:
    """Ten prompts a block on ViT-B, and what 150 classes need behind them."""
    backbone = on_meta("vit_base_patch16_224")
    assert METHODS.get("vpt_deep")().expected_params(backbone.shape) == 12 * 10 * 768
    taps = taps_of(backbone, 4)
    with torch.device("meta"):
        decoder = DECODERS["pup"](taps, 150, None)
    inside = 9 * 768 * 256 + 2 * 256 + 3 * (9 * 256**2 + 2 * 256)
    assert sum(tensor.numel() for tensor in decoder.parameters()) == inside + 257 * 150 == 3_579_542
