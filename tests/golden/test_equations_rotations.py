"""Equations of the orthogonal and rescaling methods on one ViT block, in float64 against an independent computation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.backbones.base import Backbone
from peftbench.contracts.backbones import make
from peftbench.methods.base import METHODS, install
from tests.golden.test_equations import LAYER, WIDTH, attention, block, plain, tokens, weights
from tests.golden.test_equations_lowrank import OUT, agrees, frozen, moved, own

PARTS = ("down.weight", "down.bias", "up.weight", "up.bias")


def doubles() -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in weights().items()}


def own_tensor(backbone: Backbone, name: str) -> Tensor:
    return backbone.get_parameter(f"net.blocks.{LAYER}.{name}").detach()


def same(backbone: Backbone, expected: Tensor) -> None:
    same_from(backbone, tokens().double(), expected)


def same_from(backbone: Backbone, x: Tensor, expected: Tensor) -> None:
    """The installed block takes x to `expected`."""
    with torch.no_grad():
        found = backbone.net.blocks[LAYER](x)  # type: ignore[union-attr, index, operator]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def fresh(name: str, **options: Any) -> Backbone:
    backbone = make("vit_layerscale")
    install(METHODS.get(name)(**options), backbone, seed=5)
    return backbone


def triangle(values: Tensor, size: int) -> Tensor:
    """Skew-symmetric matrix whose entries above the diagonal are `values`, row by row."""
    q, numbers = torch.zeros(size, size, dtype=values.dtype), iter(values)
    for row in range(size):
        for column in range(row + 1, size):
            q[row, column] = next(numbers)
            q[column, row] = -q[row, column]
    return q


def rotation(q: Tensor) -> Tensor:
    identity = torch.eye(len(q), dtype=q.dtype)
    return (identity + q) @ torch.linalg.inv(identity - q)


def test_oft_rotates_blocks_of_inputs() -> None:
    backbone, new = moved("oft", block_size=20), {}  # 16 is the largest size up to 20 that divides 48
    for part in ("q", "v"):
        values = own(backbone, f"changes.{OUT[part]}.values")
        assert values.shape == (3, 120)
        r = torch.block_diag(*(rotation(triangle(row, 16)) for row in values))
        torch.testing.assert_close(r @ r.T, torch.eye(WIDTH, dtype=r.dtype), rtol=0, atol=1e-12)
        new[part] = frozen(part) @ r
    agrees(backbone, new)


def test_ofts_series_nears_the_transpose() -> None:
    backbone, new = moved("oft", block_size=4, cayley="series"), {}
    for part in ("q", "v"):
        series = []
        for row in own(backbone, f"changes.{OUT[part]}.values"):
            q = triangle(row, 4)
            terms = [torch.linalg.matrix_power(q, power) for power in range(5)]
            series.append((terms[0] + 2 * (terms[1] + terms[2] + terms[3]) + terms[4]).T)
        new[part] = frozen(part) @ torch.block_diag(*series)
    agrees(backbone, new)
    small = 0.01 * triangle(torch.linspace(-1, 1, 6, dtype=torch.float64), 4)
    exact = rotation(small)
    terms = [torch.linalg.matrix_power(small, power) for power in range(5)]
    near = terms[0] + 2 * (terms[1] + terms[2] + terms[3]) + terms[4]
    assert (near - exact).abs().max() < 1e-7


def test_boft_multiplies_butterfly_factors() -> None:
    """Factor i rotates blocks made of two half blocks that lie 2^i half blocks apart."""
    backbone, new = moved("boft", block_size=4, num_factors=3), {}
    for part in ("q", "v"):
        blocks, scale = (own(backbone, f"changes.{OUT[part]}.{name}") for name in ("blocks", "scale"))
        assert blocks.shape == (3, 12, 4, 4)
        r = torch.eye(WIDTH, dtype=torch.float64)
        for factor in range(3):
            f, used, number = torch.zeros_like(r), set[int](), 0
            for start in range(0, WIDTH, 2):
                if start in used:
                    continue
                partner = start + 2 * 2**factor
                used |= {start, partner}
                inputs = [start, start + 1, partner, partner + 1]
                b = blocks[factor, number]
                number += 1
                for row, i in enumerate(inputs):
                    for column, j in enumerate(inputs):
                        # the released sign: (I - Q)(I + Q)^-1
                        f[i, j] = rotation(-(b - b.T) / 2)[row, column]
            r = f @ r
        torch.testing.assert_close(r @ r.T, torch.eye(WIDTH, dtype=r.dtype), rtol=0, atol=1e-12)
        new[part] = scale.unsqueeze(1) * (frozen(part) @ r.T)
    agrees(backbone, new)


def test_hra_reflects_one_axis_after_the_other() -> None:
    backbone, new = moved("hra", rank=4), {}
    for part in ("q", "v"):
        axes, w = own(backbone, f"changes.{OUT[part]}.axes"), frozen(part)
        for u in axes.T:
            w = w @ (torch.eye(WIDTH, dtype=w.dtype) - 2 * torch.outer(u, u) / (u @ u))
        new[part] = w
    agrees(backbone, new)


def test_hras_axes_start_in_pairs_as_wide_as_half_their_number_says() -> None:
    axes = fresh("hra").get_parameter(f"net.blocks.{LAYER}.attn.qkv.changes.0.axes").detach()
    assert torch.equal(axes[:, ::2], axes[:, 1::2])
    # kaiming-uniform with a = sqrt(5) of a tensor [in, rank / 2]
    assert 0.9 * 0.5 < axes.abs().max() <= 0.5


def reflection(a: Tensor) -> Tensor:
    return torch.eye(len(a), dtype=a.dtype) - 2 * torch.outer(a, a) / (a @ a)


@pytest.mark.parametrize("rank", [0, 2])
def test_hta_adds_scales_between_two_reflections(rank: int) -> None:
    backbone, new = moved("hta", rank=rank, targets=["q", "k", "v"]), {}
    for part in OUT:
        delta = f"deltas.{OUT[part]}"
        u, v, scales = (own(backbone, f"{delta}.{name}") for name in ("left", "right", "scales"))
        new[part] = frozen(part) + reflection(u) @ torch.diag(scales) @ reflection(v)
        if rank:
            new[part] = new[part] + own(backbone, f"{delta}.beside.up") @ own(backbone, f"{delta}.beside.down")
    agrees(backbone, new)


@pytest.mark.parametrize("role", ["mlp.fc1", "mlp.fc2"])
def test_htas_scales_lie_on_the_diagonal_of_a_map_that_widens_or_narrows(role: str) -> None:
    backbone = moved("hta", rank=0, targets=["fc1", "fc2"])
    linear = backbone.get_submodule(f"net.blocks.{LAYER}.{role}")
    u, v, scales = (linear.get_parameter(f"deltas.0.{name}").detach() for name in ("left", "right", "scales"))
    weight, bias = (doubles()[f"{role}.{end}"] for end in ("weight", "bias"))
    diagonal = torch.zeros_like(weight)
    diagonal[range(WIDTH), range(WIDTH)] = scales
    x = torch.randn(5, len(v), dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = x @ (weight + reflection(u) @ diagonal @ reflection(v)).T + bias
    torch.testing.assert_close(linear(x), expected, rtol=0, atol=1e-12)


def frozen_ends(backbone: Backbone, part: str, rank: int) -> tuple[Tensor, Tensor]:
    """What stands around the trained core, once it is seen to be singular vectors of W with their best fit."""
    prefix = f"net.blocks.{LAYER}.attn.qkv.deltas.{OUT[part]}"
    up, down = (backbone.get_buffer(f"{prefix}.{name}") for name in ("up", "down"))
    u, s, vt = torch.linalg.svd(frozen(part))
    torch.testing.assert_close(up @ down, u[:, :rank] @ s[:rank].diag() @ vt[:rank], rtol=0, atol=1e-5)
    for rows in (up.T / up.norm(dim=0).unsqueeze(1), down / down.norm(dim=1).unsqueeze(1)):
        torch.testing.assert_close(rows @ rows.T, torch.eye(rank, dtype=rows.dtype), rtol=0, atol=1e-5)
    return up, down


def givens_product(matrices: list[Tensor], width: int) -> Tensor:
    """G_n ... G_1: what is left of the inputs is taken in pairs, the first of each pair stays for the next stage."""
    r, left, number = torch.eye(width, dtype=torch.float64), list(range(width)), 0
    while len(left) > 1:
        waiting = [left[-1]] if len(left) % 2 else []
        pairs = list(zip(left[0::2], left[1::2], strict=False))
        for i, j in pairs:
            g = torch.eye(width, dtype=torch.float64)
            g[i, i], g[i, j], g[j, i], g[j, j] = matrices[number].flatten()
            r, number = g @ r, number + 1
        left = [i for i, _ in pairs] + waiting
    assert number == len(matrices) == width - 1
    return r


def test_goft_turns_a_tree_of_pairs() -> None:
    # 48 inputs leave an odd one out in the fifth stage
    backbone, new = moved("goft", scale=True), {}
    for part in ("q", "v"):
        angles, lengths = (own(backbone, f"changes.{OUT[part]}.{name}") for name in ("angles", "lengths"))
        turns = [torch.pi * torch.tanh(a) for a in angles]
        r = givens_product([torch.stack([a.cos(), -a.sin(), a.sin(), a.cos()]) for a in turns], WIDTH)
        torch.testing.assert_close(r @ r.T, torch.eye(WIDTH, dtype=r.dtype), rtol=0, atol=1e-12)
        new[part] = frozen(part) @ torch.diag(lengths) @ r.T
    agrees(backbone, new)


def test_qgoft_mixes_the_same_pairs_freely() -> None:
    backbone, new = moved("qgoft", targets=["k"]), {}
    matrices = own(backbone, "changes.1.matrices")
    assert matrices.shape == (WIDTH - 1, 2, 2)
    new["k"] = frozen("k") @ givens_product(list(matrices), WIDTH).T
    agrees(backbone, new)


def test_psoft_turns_the_principal_subspace() -> None:
    backbone, new = moved("psoft", rank=5, targets=["q", "v"]), {}
    for part in ("q", "v"):
        values, b, a = (own(backbone, f"deltas.{OUT[part]}.{name}") for name in ("values", "outer", "inner"))
        up, down = frozen_ends(backbone, part, 5)
        torch.testing.assert_close(down.norm(dim=1), torch.ones(5, dtype=down.dtype), rtol=0, atol=1e-5)
        rest = frozen(part) - up @ down
        new[part] = rest + up @ b.diag() @ rotation(triangle(values, 5)) @ a.diag() @ down
    agrees(backbone, new)


def test_lora_xs_trains_between_singular_vectors() -> None:
    backbone, new = moved("lora_xs", rank=4, alpha=6.0), {}
    for part in ("q", "v"):
        up, down = frozen_ends(backbone, part, 4)
        torch.testing.assert_close(up.norm(dim=0), torch.ones(4, dtype=up.dtype), rtol=0, atol=1e-5)
        new[part] = frozen(part) + 1.5 * up @ own(backbone, f"deltas.{OUT[part]}.between") @ down
    agrees(backbone, new)
    between = fresh("lora_xs").get_parameter(f"net.blocks.{LAYER}.attn.qkv.deltas.0.between")
    assert 0.7e-5 < between.std() < 1.3e-5


def test_ia3_scales_keys_values_and_hidden_activations() -> None:
    backbone, w = moved("ia3"), doubles()
    keys, values = (own_tensor(backbone, f"attn.qkv.{name}") for name in ("keys", "values"))
    hidden = own_tensor(backbone, "mlp.fc2.scale")

    def op(name: str, x: Tensor) -> Tensor:
        if name == "mlp.fc2":
            return plain(w)(name, hidden * x)
        y = plain(w)(name, x)
        if name == "attn.qkv":
            q, k, v = y.split(WIDTH, dim=-1)
            y = torch.cat([q, keys * k, values * v], dim=-1)
        return y

    same(backbone, block(tokens().double(), w, op))


def test_adapter_plus_stands_behind_the_block() -> None:
    backbone, w = moved("adapter_plus", bottleneck=3), doubles()
    down, down_bias, up, up_bias = (
        own_tensor(backbone, f"taps.0.branch.delta.{name}")
        for name in ("down.weight", "down.bias", "up.weight", "up.bias")
    )
    scale = own_tensor(backbone, "taps.0.scale")
    x = block(tokens().double(), w, plain(w))
    same(backbone, x + scale * (F.gelu(x @ down.T + down_bias) @ up.T + up_bias))


def halves_with(backbone: Backbone, place: str, added: Callable[[str, Tensor], Tensor]) -> Tensor:
    """The block with an adapter at `place`; `added` gives what its tap adds, x being what that reads."""
    w, x = doubles(), tokens().double()
    op = plain(w)
    q, k, v = op("attn.qkv", op("norm1", x)).split(WIDTH, dim=-1)
    y = w["ls1.gamma"] * op("attn.proj", attention(q, k, v))
    x = x + (y + added("taps.0", y) if place == "houlsby" else y)
    if place == "pre":
        x = x + added("taps.0", x)
    y = w["ls2.gamma"] * op("mlp.fc2", F.gelu(op("mlp.fc1", op("norm2", x))))
    reads = {"intermediate": ("taps.0", y), "houlsby": ("taps.1", y), "parallel": ("taps.0", x)}
    return x + y + (added(*reads[place]) if place in reads else 0)


@pytest.mark.parametrize("place", ["pre", "intermediate", "parallel", "houlsby"])
@pytest.mark.parametrize(("scaling", "norm"), [("channel", False), ("single", True), ("none", True)])
def test_adapter_pluss_other_places(place: str, scaling: str, norm: bool) -> None:
    backbone = moved("adapter_plus", bottleneck=3, place=place, scaling=scaling, norm=norm)

    def added(tap: str, x: Tensor) -> Tensor:
        if norm:
            scale, shift = (own_tensor(backbone, f"{tap}.norm.{name}") for name in ("weight", "bias"))
            centred = x - x.mean(dim=-1, keepdim=True)
            x = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() * scale + shift
        down, a, up, b = (own_tensor(backbone, f"{tap}.branch.delta.{name}") for name in PARTS)
        y = F.gelu(x @ down.T + a) @ up.T + b
        return y if scaling == "none" else y * own_tensor(backbone, f"{tap}.scale")

    same(backbone, halves_with(backbone, place, added))


def test_adapter_plus_starts_as_bert_and_as_lora() -> None:
    bert, lora = fresh("adapter_plus", init="bert"), fresh("adapter_plus", init="lora", scaling="none")
    for name in ("down", "up"):
        assert abs(own_tensor(bert, f"taps.0.branch.delta.{name}.weight").std() / 0.02 - 1) < 0.15
        assert not own_tensor(bert, f"taps.0.branch.delta.{name}.bias").any()
    down, bias = (own_tensor(lora, f"taps.0.branch.delta.down.{name}") for name in ("weight", "bias"))
    for drawn in (down, bias):
        assert 0.6 * WIDTH**-0.5 < drawn.abs().max() <= WIDTH**-0.5
    assert not own_tensor(lora, "taps.0.branch.delta.up.weight").any()


def test_adapter_plus_starts_from_a_cut_normal_and_scales_of_one() -> None:
    backbone = fresh("adapter_plus")
    for name in ("down", "up"):
        weight = own_tensor(backbone, f"taps.0.branch.delta.{name}.weight")
        # a normal cut at two deviations has 0.88 of its deviation
        assert weight.abs().max() <= 0.02 and abs(weight.std() / 0.0088 - 1) < 0.1
        assert not own_tensor(backbone, f"taps.0.branch.delta.{name}.bias").any()
    assert (own_tensor(backbone, "taps.0.scale") == 1).all()


def test_adapter_plus_drops_whole_images_of_the_branch_ahead_of_the_scale() -> None:
    adapter = moved("adapter_plus", drop_path=0.5).get_submodule(f"net.blocks.{LAYER}.taps.0").train()
    x = torch.randn(200, 5, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.manual_seed(0)
        added = adapter(x) - x
        full = adapter.eval()(x) - x
    kept = added.flatten(1).abs().sum(1) > 0
    assert 0.35 < kept.double().mean() < 0.65
    torch.testing.assert_close(added[kept], 2 * full[kept], rtol=0, atol=1e-12)


def test_arc_composes_adapters_from_one_projection() -> None:
    backbone, w = moved("arc", bottleneck=5), doubles()
    p = {place: backbone.get_parameter(f"shared.{place}_{WIDTH}.down").detach() for place in ("attn", "mlp")}
    places = {"attn.qkv": "attn", "mlp.fc1": "mlp"}

    def op(name: str, x: Tensor) -> Tensor:
        if name in places:
            rescale, bias = (own_tensor(backbone, f"{name}.module.{tensor}") for tensor in ("rescale", "bias"))
            projection = p[places[name]]
            x = x + x @ (projection * rescale) @ projection.T + bias
        return plain(w)(name, x)

    same(backbone, block(tokens().double(), w, op))


def test_arcs_coefficients_start_at_zero_ahead_of_attention_only() -> None:
    backbone = fresh("arc")
    assert not own_tensor(backbone, "attn.qkv.module.rescale").any()
    drawn = torch.cat([t.detach() for n, t in backbone.trainable if n.endswith("fc1.module.rescale")])
    # xavier of a matrix [1, 50]
    bound = (6 / 51) ** 0.5
    assert 0.9 * bound < drawn.abs().max() <= bound
    shared = [name for name, _ in backbone.trainable if name.startswith("shared.")]
    assert len(shared) == 2


def test_rlrr_rescales_with_a_residual_and_shifts() -> None:
    backbone, w = moved("rlrr"), doubles()
    linears = {"attn.qkv": OUT, "attn.proj": {"": 0}, "mlp.fc1": {"": 0}, "mlp.fc2": {"": 0}}

    def op(name: str, x: Tensor) -> Tensor:
        if name.startswith("norm"):
            y = plain(w)(name, x)
            return own_tensor(backbone, f"{name}.scale") * y + own_tensor(backbone, f"{name}.shift")
        weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
        parts = []
        for number, (m, b) in enumerate(
            zip(weight.chunk(len(linears[name])), bias.chunk(len(linears[name])), strict=True)
        ):
            inner, outer, shift = (
                own_tensor(backbone, f"{name}.changes.{number}.{t}") for t in ("inner", "outer", "shift")
            )
            parts.append(x @ (m + m * (outer @ inner)).T + b + shift)
        return torch.cat(parts, dim=-1)

    same(backbone, block(tokens().double(), w, op))


def test_rlrrs_factors_start_far_from_zero() -> None:
    backbone = fresh("rlrr")
    for name, fan_in in (
        ("attn.proj.changes.0.inner", WIDTH),
        ("mlp.fc2.changes.0.inner", 4 * WIDTH),
        ("attn.proj.changes.0.outer", 1),
    ):
        bound = (6 / fan_in) ** 0.5
        assert 0.8 * bound < own_tensor(backbone, name).abs().max() <= bound
    assert not own_tensor(backbone, "attn.proj.changes.0.shift").any()
