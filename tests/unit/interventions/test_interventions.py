"""Wrappers: block taps, linear deltas, scale and shift, bottleneck, inserted tokens, and folding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.contracts.backbones import make
from peftbench.foundation.errors import NotApplicable
from peftbench.interventions import (
    BlockTaps,
    Bottleneck,
    InsertTokens,
    LinearDelta,
    LowRank,
    ScaleShift,
    StripTokens,
    Tap,
    fold_all,
    tap_block,
)


def blocks_of(name: str) -> list[Any]:
    return [site.module for site in make(name).sites("block")]


def stream(name: str, layer: int) -> Tensor:
    """Input of a block: tokens [2, 17, width], or maps [2, height, width, channels] for Swin."""
    generator = torch.Generator().manual_seed(layer)
    shape = ((2, 8, 8, 24), (2, 8, 8, 24), (2, 4, 4, 48))[layer] if name == "swin" else (2, 17, 48)
    return torch.randn(shape, generator=generator)


@pytest.mark.parametrize("name", ["vit_cls", "vit_layerscale", "vit_qknorm", "swin"])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_block_without_taps_is_timms_block_bit_for_bit(name: str, layer: int) -> None:
    block, x = blocks_of(name)[layer], stream(name, layer)
    assert torch.equal(BlockTaps(block)(x), block(x))


@pytest.mark.parametrize("name", ["convnext", "convnext_conv_mlp"])
def test_a_convnext_block_without_taps_is_timms_block(name: str) -> None:
    for layer, size in enumerate((8, 4, 2, 1)):
        block = blocks_of(name)[layer]
        x = torch.randn(2, (8, 16, 24, 32)[layer], size, size, generator=torch.Generator().manual_seed(layer))
        torch.testing.assert_close(BlockTaps(block)(x), block(x))


@pytest.mark.parametrize("name", ["vit_layerscale", "swin"])
def test_stochastic_depth_draws_as_timm_does(name: str) -> None:
    block, x = blocks_of(name)[1], stream(name, 1)
    block.drop_path1, block.drop_path2 = DropPath(0.5), DropPath(0.5)
    block.train()
    torch.manual_seed(3)
    expected = block(x)
    torch.manual_seed(3)
    assert torch.equal(BlockTaps(block)(x), expected)


def test_masks_reach_attention_through_every_block_wrapper() -> None:
    block, x = blocks_of("vit_cls")[0], stream("vit_cls", 0)
    mask = torch.ones(17, 17).tril().bool()
    expected = block(x, attn_mask=mask)
    assert not torch.equal(expected, block(x))
    assert torch.equal(BlockTaps(block)(x, attn_mask=mask), expected)
    assert torch.equal(BlockTaps(block)(x, is_causal=True), block(x, is_causal=True))
    assert torch.equal(StripTokens(block, 3, 1)(x, attn_mask=mask), torch.cat([expected[:, :1], expected[:, 4:]], 1))


class Zero(nn.Module):
    """Silences the half behind it."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


ZERO = Zero()


class Record(nn.Module):
    """A branch that keeps what it was given and returns a constant."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return torch.full_like(x, self.value)


@torch.no_grad()
def test_taps_read_and_add_where_they_say() -> None:
    block, x = blocks_of("vit_layerscale")[0], stream("vit_layerscale", 0)
    taps = [
        Tap("attn", Record(0.1), place="inside", reads="normed"),
        Tap("attn", Record(0.2), place="beside", reads="raw"),
        Tap("mlp", Record(0.3), place="beside", reads="raw"),
        Tap("mlp", Record(0.4), place="inside", reads="normed"),
    ]
    found = tap_block(block, taps)(x)
    middle = x + block.ls1(block.attn(block.norm1(x)) + 0.1) + 0.2
    expected = middle + block.ls2(block.mlp(block.norm2(middle)) + 0.4) + 0.3
    torch.testing.assert_close(found, expected)
    for tap, read in zip(taps, (block.norm1(x), x, middle, block.norm2(middle)), strict=True):
        torch.testing.assert_close(tap.module.seen, read)  # type: ignore[arg-type]


@torch.no_grad()
def test_taps_on_the_shortcut_and_on_the_stream() -> None:
    block, x = blocks_of("vit_layerscale")[0], stream("vit_layerscale", 0)
    shortcut, after = nn.Linear(48, 48), nn.Linear(48, 48)
    found = tap_block(block, [Tap("mlp", shortcut, place="skip"), Tap("attn", after, place="stream")])(x)
    middle = after(x + block.ls1(block.attn(block.norm1(x))))
    torch.testing.assert_close(found, shortcut(middle) + block.ls2(block.mlp(block.norm2(middle))))


@pytest.mark.parametrize("name", ["convnext", "convnext_conv_mlp"])
@torch.no_grad()
def test_taps_on_maps_work_channels_last(name: str) -> None:
    block, x = blocks_of(name)[1], torch.randn(2, 16, 4, 4)
    beside, after = nn.Linear(16, 16), nn.Linear(16, 16)
    found = tap_block(block, [Tap("mlp", beside, reads="raw"), Tap("mlp", after, place="stream")])(x)
    expected = after(block(x).movedim(1, -1) + beside(x.movedim(1, -1))).movedim(-1, 1)
    torch.testing.assert_close(found, expected)


def test_a_branch_can_go_through_the_stochastic_depth_of_its_half() -> None:
    block, x = blocks_of("vit_cls")[0].train(), torch.zeros(64, 17, 48)
    block.drop_path1 = DropPath(0.5)
    for drop_path, values in ((True, {0.0, 2.0}), (False, {1.0})):
        tapped = BlockTaps(block)
        tapped.add(Tap("attn", Record(1.0), drop_path=drop_path))
        silent = BlockTaps(block)
        silent.add(Tap("attn", Record(0.0), drop_path=drop_path))
        added = []
        for wrapped in (tapped, silent):
            torch.manual_seed(1)
            block.mlp, mlp = nn.Identity(), block.mlp
            block.norm2, norm = ZERO, block.norm2
            added.append(wrapped(x))
            block.mlp, block.norm2 = mlp, norm
        assert {round(value, 4) for value in (added[0] - added[1])[:, 0, 0].tolist()} == values


def test_a_second_tap_joins_the_first_wrapper() -> None:
    block = blocks_of("vit_cls")[0]
    once = tap_block(block, [Tap("mlp", Record(1.0))])
    twice = tap_block(once, [Tap("attn", Record(1.0))])
    assert twice is once and once.base is block


@torch.no_grad()
def test_modules_wrapped_after_the_block_still_count() -> None:
    block, x = blocks_of("vit_cls")[0], stream("vit_cls", 0)
    tapped = tap_block(block, [])
    before = tapped(x)
    block.mlp.fc1 = ScaleShift(block.mlp.fc1, 192, std=0.5)
    assert torch.equal(tapped(x), block(x)) and not torch.equal(tapped(x), before)


def test_unknown_halves_and_blocks_are_not_applicable() -> None:
    with pytest.raises(NotApplicable, match="a Block has no conv half"):
        tap_block(blocks_of("vit_cls")[0], [Tap("conv", nn.Identity())])
    with pytest.raises(NotApplicable, match="a ConvNeXtBlock has no attn half"):
        tap_block(blocks_of("convnext")[0], [Tap("attn", nn.Identity())])
    with pytest.raises(NotApplicable, match="blocks of type Linear"):
        tap_block(nn.Linear(2, 2), [])


@torch.no_grad()
def test_a_delta_on_slices_touches_only_those_outputs_and_folds() -> None:
    base, x = nn.Linear(6, 12), torch.randn(5, 6)
    delta = LowRank(6, 4, rank=2, scale=3.0)
    delta.up.normal_()
    wrapped = LinearDelta(base, {2: delta}, num_slices=3)
    y = wrapped(x)
    assert torch.equal(y[:, :8], base(x)[:, :8])
    torch.testing.assert_close(y[:, 8:], base(x)[:, 8:] + 3 * x @ delta.down.T @ delta.up.T)
    weight = base.weight.clone()
    plain = wrapped.folded()
    assert isinstance(plain, nn.Linear) and plain is not base and torch.equal(base.weight, weight)
    torch.testing.assert_close(plain(x), y)


def test_a_linear_delta_needs_a_linear_map() -> None:
    with pytest.raises(NotApplicable, match="not a LayerNorm"):
        LinearDelta(nn.LayerNorm(4), {})


@pytest.mark.parametrize(
    ("base", "shape", "channel_dim"),
    [
        (nn.Linear(6, 8), (2, 5, 6), -1),
        (nn.Linear(6, 8, bias=False), (2, 5, 6), -1),
        (nn.Conv2d(6, 8, 3), (2, 6, 5, 5), 1),
        (nn.Conv2d(8, 8, 3, groups=8, bias=False), (2, 8, 5, 5), 1),
        (nn.LayerNorm(8), (2, 5, 8), -1),
    ],
    ids=["linear", "linear-no-bias", "conv", "depthwise-no-bias", "norm"],
)
@torch.no_grad()
def test_scale_and_shift_act_by_channel_and_fold(base: nn.Module, shape: tuple[int, ...], channel_dim: int) -> None:
    wrapped, x = ScaleShift(base, 8, channel_dim, std=0.5), torch.randn(shape)
    y = wrapped(x).movedim(channel_dim, -1)
    torch.testing.assert_close(y, base(x).movedim(channel_dim, -1) * wrapped.scale + wrapped.shift)
    plain = wrapped.folded()
    assert type(plain) is type(base) and plain is not base
    torch.testing.assert_close(plain(x).movedim(channel_dim, -1), y)  # type: ignore[misc]
    assert not any(parameter.requires_grad for parameter in [plain.bias])  # type: ignore[union-attr]


def test_scale_and_shift_of_an_arbitrary_module_cannot_be_folded() -> None:
    root = nn.Sequential(ScaleShift(nn.GELU(), 8), ScaleShift(nn.Linear(8, 8), 8))
    assert fold_all(root) == [root[0]]
    assert isinstance(root[0], ScaleShift) and isinstance(root[1], nn.Linear)


@torch.no_grad()
def test_nested_wrappers_fold_from_the_inside() -> None:
    base, x = nn.Linear(6, 8), torch.randn(3, 6)
    delta = LowRank(6, 8, rank=2)
    delta.up.normal_()
    root = nn.Sequential(ScaleShift(LinearDelta(base, {0: delta}), 8, std=0.5))
    expected = root(x)
    assert fold_all(root) == []
    assert type(root[0]) is nn.Linear
    torch.testing.assert_close(root(x), expected)


@pytest.mark.parametrize(
    ("activation", "reference"),
    [
        ("relu", lambda h: h.clamp(min=0)),
        ("gelu", lambda h: 0.5 * h * (1 + torch.erf(h / 2**0.5))),
        ("quick_gelu", lambda h: h / (1 + torch.exp(-1.702 * h))),
        ("none", lambda h: h),
    ],
)
@torch.no_grad()
def test_bottleneck_activations(activation: str, reference: Any) -> None:
    module, x = Bottleneck(6, 3, activation, scale=0.7), torch.randn(4, 6)
    assert not module(x).any(), "silent at the start"
    for parameter in module.parameters():
        parameter.normal_()
    hidden = reference(F.linear(x, module.down.weight, module.down.bias))
    torch.testing.assert_close(module(x), 0.7 * (hidden @ module.up.weight.T + module.up.bias))


@pytest.mark.parametrize("prefix", [0, 1, 3])
@torch.no_grad()
def test_tokens_enter_between_prefix_and_patches(prefix: int) -> None:
    x = torch.randn(2, prefix + 4, 8)
    insert = InsertTokens(nn.Identity(), 3, 8, 4, prefix, 0.0, strip=False)
    y = insert(x)
    assert torch.equal(y[:, :prefix], x[:, :prefix]) and torch.equal(y[:, prefix + 3 :], x[:, prefix:])
    assert torch.equal(y[:, prefix : prefix + 3], insert.tokens.expand(2, -1, -1))
    assert torch.equal(StripTokens(nn.Identity(), 3, prefix)(y), x)
    assert torch.equal(InsertTokens(nn.Identity(), 3, 8, 4, prefix, 0.0, strip=True)(x), x)
