"""Equations of updates made of blocks and of shared random parts on one ViT block, entry by entry, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from peftbench.contracts.backbones import make
from peftbench.methods.base import METHODS, install
from tests.golden.test_equations import tokens
from tests.golden.test_equations_lowrank import OUT, WIDTH, agrees, frozen, moved, own
from tests.golden.test_equations_rotations import doubles, own_tensor
from tests.golden.test_equations_updates import blocks_with


@pytest.mark.parametrize("variant", ["road_1", "road_2", "road_4"])
def test_road_turns_outputs_half_a_group_apart(variant: str) -> None:
    backbone = moved("road", variant=variant, group_size=16)
    weight, bias = (own(backbone, f"base.{name}").clone() for name in ("weight", "bias"))
    for part in ("q", "v"):
        angles, scales = (own(backbone, f"changes.{OUT[part]}.{name}") for name in ("angles", "scales"))
        turn = torch.zeros(WIDTH, WIDTH, dtype=torch.float64)
        for group in range(3):
            for i in range(8):
                upper, lower = 16 * group + i, 16 * group + i + 8
                if variant == "road_1":
                    at = [(8 * group + i, 8 * group + i)] * 2
                elif variant == "road_2":
                    at = [(upper, upper), (lower, lower)]
                else:  # cosines of a group's outputs, then their sines
                    at = [(32 * group + i, 32 * group + 16 + i), (32 * group + i + 8, 32 * group + 24 + i)]
                for row, other, sign, (own_place, other_place) in zip(
                    (upper, lower), (lower, upper), (-1, 1), at, strict=True
                ):
                    turn[row, row] = scales[own_place] * math.cos(angles[own_place])
                    turn[row, other] = sign * scales[other_place] * math.sin(angles[other_place])
        rows = slice(OUT[part] * WIDTH, (OUT[part] + 1) * WIDTH)
        weight[rows], bias[rows] = turn @ weight[rows], turn @ bias[rows]
    blocks_with(backbone, {"attn.qkv": weight}, {"attn.qkv": bias})


def test_c3a_is_a_circular_convolution_of_pieces() -> None:
    backbone, new = moved("c3a", block_size=20), {}  # 16 is the largest size up to 20 that divides 48
    for part in ("q", "v"):
        kernels = own(backbone, f"changes.{OUT[part]}.kernels")
        assert kernels.shape == (3, 3, 16)
        # the released form: Fourier transforms of unit vectors
        pieces = torch.eye(WIDTH, dtype=torch.float64).view(WIDTH, 3, 16)
        spectra = torch.einsum("xnb,mnb->xmb", torch.fft.ifft(pieces), torch.fft.fft(kernels))
        new[part] = frozen(part) + torch.fft.fft(spectra).real.flatten(1).T / WIDTH
    agrees(backbone, new)


def test_c3a_starts_small_or_silent() -> None:
    started = moved("c3a", init="zeros"), moved("c3a", init="xavier")
    first, second = (own(backbone, "changes.0.kernels") for backbone in started)
    assert (second - first).abs().max() <= math.sqrt(6 / (2 * WIDTH)) + 1e-6, "the same moves on zeros and on a draw"
    assert (second - first).abs().max() > 0.5 * math.sqrt(6 / (2 * WIDTH))


@pytest.mark.parametrize("bases", ["uniform", "sparse", "very_sparse"])
def test_randlora_sums_scaled_random_products(bases: str) -> None:
    rank, number = 20, 3  # ceil(48 / 20)
    backbone, new = moved("randlora", rank=rank, alpha=40.0, bases=bases), {}
    small, large = (backbone.get_buffer(f"shared.bases.{name}") for name in ("small", "large"))
    for drawn, shape in ((small, (rank, 1, WIDTH)), (large, (WIDTH, number, rank))):
        assert drawn.shape == shape
        torch.testing.assert_close(drawn.std(), torch.tensor(1.0, dtype=torch.float64), rtol=0, atol=1e-6)
        assert len(drawn.unique()) == 3 or bases == "uniform"
    for part in ("q", "v"):
        factors, columns = (own(backbone, f"deltas.{OUT[part]}.{name}") for name in ("factors", "columns"))
        delta = torch.zeros(WIDTH, WIDTH, dtype=torch.float64)
        rows = [factors[r, n] * small[r, 0] * columns[n] for r in range(rank) for n in range(number)]
        left = [large[:, n, r] for n in range(number) for r in range(rank)]
        for column, row in zip(left, rows, strict=True):
            delta += 2 * torch.outer(column, row)
        new[part] = frozen(part) + delta
    agrees(backbone, new)


def test_randlora_turns_its_bases_for_narrowing_maps() -> None:
    backbone = moved("randlora", rank=30, targets=["fc1", "fc2"])
    wide, narrow = (backbone.get_submodule(f"net.blocks.1.mlp.{name}.deltas.0") for name in ("fc1", "fc2"))
    assert wide.get_parameter("columns").shape == narrow.get_parameter("columns").shape == (2, WIDTH)
    with torch.no_grad():
        for name in ("factors", "columns"):
            narrow.get_parameter(name).copy_(wide.get_parameter(name))
        torch.testing.assert_close(narrow.weight(), wide.weight().T, rtol=0, atol=1e-12)  # type: ignore[operator]


def test_miss_adds_one_piece_to_all_pieces_of_the_inputs() -> None:
    backbone, new = moved("miss", rank=20), {}  # 48 = 20 + 20 + 8
    for part in ("q", "v"):
        shard = own(backbone, f"changes.{OUT[part]}.shard")
        new[part] = frozen(part) + torch.cat([shard, shard, shard[:8]]).T
    agrees(backbone, new)


def test_bat_multiplies_blocks_as_well() -> None:
    backbone, new = moved("miss", rank=12, variant="bat"), {}
    for part in ("q", "v"):
        shards, w = own(backbone, f"changes.{OUT[part]}.shards"), frozen(part).clone()
        for i in range(4):
            for j in range(4):
                old = frozen(part)[12 * i : 12 * i + 12, 12 * j : 12 * j + 12]
                w[12 * i : 12 * i + 12, 12 * j : 12 * j + 12] = old + old @ shards[i] + shards[i]
        new[part] = w
    agrees(backbone, new)


def test_gralora_gives_each_block_a_low_rank_update() -> None:
    backbone, new = moved("gralora", rank=6, alpha=9.0, num_blocks=3), {}
    for part in ("q", "v"):
        downs, ups = (own(backbone, f"deltas.{OUT[part]}.{name}") for name in ("downs", "ups"))
        delta = torch.zeros(WIDTH, WIDTH, dtype=torch.float64)
        for m in range(3):
            for n in range(3):
                # of the rank numbers of input piece n, output piece m takes its third, weighted by rows of piece n
                a, b = downs[n][:, 2 * m : 2 * m + 2], ups[m][2 * n : 2 * n + 2]
                delta[16 * m : 16 * m + 16, 16 * n : 16 * n + 16] = 1.5 * (a @ b).T
        new[part] = frozen(part) + delta
    agrees(backbone, new)


def test_tinylora_mixes_fixed_matrices_between_singular_vectors() -> None:
    backbone, new = moved("tinylora", rank=3, num_mixed=5, parts_seed=7), {}
    matrices = [(layer, part) for layer in range(3) for part in ("q", "v")]
    for part in ("q", "v"):
        mix = own(backbone, f"deltas.{OUT[part]}.mix")
        generator = torch.Generator().manual_seed(7 + matrices.index((1, part)))
        parts = torch.randn((5, 3, 3), generator=generator).double() / math.sqrt(3)
        # in single precision as installed, since another rounding may turn vectors round
        u, s, vt = (tensor.double() for tensor in torch.linalg.svd(frozen(part).float()))
        core: Tensor = sum(v * p for v, p in zip(mix, parts, strict=True))  # type: ignore[assignment]
        root = torch.diag(s[:3].sqrt())
        new[part] = frozen(part) + u[:, :3] @ root @ core @ root @ vt[:3]
        found = backbone.get_submodule(f"net.blocks.1.attn.qkv.deltas.{OUT[part]}").weight()  # type: ignore[operator]
        torch.testing.assert_close(found.detach(), new[part] - frozen(part), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shuffle", [False, True])
def test_consolidator_adds_a_map_of_groups_to_every_linear_map(shuffle: bool) -> None:
    backbone = moved("consolidator", num_groups=16, shuffle=shuffle)
    weights: dict[str, Tensor] = {}
    biases: dict[str, Tensor] = {}
    w = {name: tensor.detach() for name, tensor in backbone.net.blocks[1].named_parameters()}  # type: ignore[union-attr, index]
    for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
        grouped, extra = w[f"{name}.deltas.0.delta.weight_of_groups"], w[f"{name}.deltas.0.delta.bias"]
        weight, bias = w[f"{name}.base.weight"].clone(), w[f"{name}.base.bias"] + extra
        rows, columns = weight.shape[0] // 16, weight.shape[1] // 16
        for out in range(weight.shape[0]):
            group = out // rows
            for i in range(columns):
                # the j-th channel that groups read is the (j / groups)-th of group (j mod groups) where they are dealt
                read = group * columns + i
                channel = (read % 16) * columns + read // 16 if shuffle else read
                weight[out, channel] += grouped[out, i]
        weights[name], biases[name] = weight, bias
    norms = {name: w[name] for name in w if name.startswith("norm")}
    blocks_with(backbone, weights, biases, norms)


def test_consolidator_starts_near_the_frozen_network() -> None:
    backbone = make("vit_layerscale")
    install(METHODS.get("consolidator")(), backbone)
    drawn = torch.cat([tensor.flatten() for name, tensor in backbone.trainable if ".deltas." in name]).detach()
    assert 0.99e-3 < drawn.abs().max() <= 1e-3


def test_consolidators_branches_leave_out_whole_samples() -> None:
    backbone = moved("consolidator", drop_path=0.5)
    qkv = backbone.get_submodule("net.blocks.1.attn.qkv").train()
    x = tokens().double()
    with torch.no_grad():
        torch.manual_seed(3)
        kept = torch.stack([(qkv(x) - qkv.get_submodule("base")(x)).abs().amax(dim=(1, 2)) > 0 for _ in range(20)])
    assert 0 < kept.double().mean() < 1


def test_karst_sums_kronecker_products_and_rescales_by_single_numbers() -> None:
    backbone = moved("karst", num_kernels=2, factor=4, rank=3, alpha=1.5)
    new, w = {}, doubles()
    for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
        within = f"{name}.base.deltas.0." if name in ("attn.proj", "mlp.fc2") else f"{name}.deltas.0."
        small, up, down = (own_tensor(backbone, within + tensor) for tensor in ("small", "up", "down"))
        rows = []
        for part in range(3 if name == "attn.qkv" else 1):
            terms = [torch.kron(small[i], (down[i] @ up[i, part]).T.contiguous()) for i in range(2)]
            rows.append(0.5 * (terms[0] + terms[1]))
        new[name] = w[f"{name}.weight"] + torch.cat(rows)
    assert up.shape == (2, 1, 3, 12) and down.shape == (2, 48, 3), "fc2: 192 = 4 x 48 inputs, 48 = 4 x 12 outputs"
    biases = {}
    for name in ("attn.proj", "mlp.fc2"):
        scale, shift = (own_tensor(backbone, f"{name}.{tensor}") for tensor in ("scale", "shift"))
        bias = w[f"{name}.bias"]
        if name == "attn.proj":
            first, offset = (own_tensor(backbone, f"{name}.{tensor}_ahead") for tensor in ("scale", "shift"))
            bias = bias + new[name] @ offset.expand(WIDTH)
            new[name] = first * new[name]
        new[name], biases[name] = scale * new[name], scale * bias + shift
    blocks_with(backbone, new, biases)


def test_karsts_kernels_start_as_kaiming_draws_each() -> None:
    backbone = make("vit_cls")
    install(METHODS.get("karst")(factor=4, rank=30), backbone)
    delta = backbone.get_submodule("net.blocks.0.mlp.fc1.deltas.0")
    small, up, down = (delta.get_parameter(name) for name in ("small", "up", "down"))
    # 48 = 4 x 12 inputs, 192 = 4 x 48 outputs
    assert 0.9 * 4**-0.5 < small.abs().max() <= 4**-0.5 and 0.9 * 48**-0.5 < up.abs().max() <= 48**-0.5
    assert not down.any()
