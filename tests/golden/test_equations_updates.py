"""Equations of dense, sparse and tensor updates on one ViT block, in float64 against an independent computation."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from peftbench.backbones.base import Backbone
from peftbench.contracts.backbones import make
from peftbench.methods.base import METHODS, install
from tests.golden.test_equations import LAYER, WIDTH, block, plain, tokens
from tests.golden.test_equations_lowrank import OUT, agrees, frozen, moved, own
from tests.golden.test_equations_rotations import doubles, own_tensor, same

LINEARS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


def blocks_with(
    backbone: Backbone,
    new: dict[str, Tensor],
    biases: dict[str, Tensor] | None = None,
    others: dict[str, Tensor] | None = None,
) -> None:
    """The installed block is the plain one with these weights and biases of whole linear maps, and `others` by name."""
    w = doubles() | (others or {})
    for name, weight in new.items():
        w[f"{name}.weight"] = weight
    for name, bias in (biases or {}).items():
        w[f"{name}.bias"] = bias
    same(backbone, block(tokens().double(), w, plain(w)))


def test_hira_scales_every_entry_by_a_low_rank_matrix() -> None:
    backbone, new = moved("hira", rank=3), {}
    for part in ("q", "v"):
        a, b = (own(backbone, f"changes.{OUT[part]}.pair.{name}") for name in ("down", "up"))
        w = frozen(part)
        new[part] = torch.stack([row * (1 + factors @ a) for row, factors in zip(w, b, strict=True)])
    agrees(backbone, new)


def test_loha_multiplies_two_low_rank_matrices_entry_by_entry() -> None:
    backbone, new = moved("loha", rank=3, alpha=6.0), {}
    for part in ("q", "v"):
        u1, u2, d1, d2 = (
            own(backbone, f"deltas.{OUT[part]}.{name}") for name in ("ups.0", "ups.1", "downs.0", "downs.1")
        )
        delta = torch.zeros(WIDTH, WIDTH, dtype=torch.float64)
        for i in range(WIDTH):
            for j in range(WIDTH):
                delta[i, j] = 2 * (u1[i] @ d1[:, j]) * (u2[i] @ d2[:, j])
        new[part] = frozen(part) + delta
    agrees(backbone, new)


def test_loha_starts_as_lycoris_does_where_told() -> None:
    backbone = make("vit_layerscale")
    install(METHODS.get("loha")(rank=16, init="lycoris"), backbone, seed=5)
    for part in ("q", "v"):
        deviations = {"ups.0": 0.1, "downs.0": 1.0, "ups.1": 0.0, "downs.1": 1.0}
        for name, deviation in deviations.items():
            factor = own(backbone, f"deltas.{OUT[part]}.{name}")
            assert factor.std().item() == pytest.approx(deviation, rel=0.1)


@pytest.mark.parametrize("rank", [2, 5])
def test_lokr_spreads_a_low_rank_block_by_a_small_matrix(rank: int) -> None:
    """48 = 6 x 8: the larger factor [8, 8] is of low rank below 4 and whole from there on."""
    backbone, new = moved("lokr", rank=rank, alpha=6.0), {}
    for part in ("q", "v"):
        small, down = (own(backbone, f"deltas.{OUT[part]}.{name}") for name in ("small", "down"))
        large = own(backbone, f"deltas.{OUT[part]}.up") @ down if rank < 4 else down
        assert small.shape == (6, 6) and large.shape == (8, 8)
        rows = [torch.cat([entry * large for entry in row], dim=1) for row in small]
        new[part] = frozen(part) + 6 / rank * torch.cat(rows)
    agrees(backbone, new)


def test_delora_gives_every_term_one_length() -> None:
    backbone, new = moved("delora", rank=3, bound=2.0), {}
    for part in ("q", "v"):
        a, b, bound = (own(backbone, f"deltas.{OUT[part]}.{name}") for name in ("down", "up", "bound"))
        w = frozen(part)
        lengths = backbone.get_buffer(f"net.blocks.{LAYER}.attn.qkv.deltas.{OUT[part]}.lengths")
        torch.testing.assert_close(lengths, w.norm(dim=0), rtol=1e-6, atol=0)
        terms = [torch.outer(b[:, i] / b[:, i].norm(), a[i] / a[i].norm()) for i in range(3)]
        for term in terms:
            assert abs(term.norm() - 1) < 1e-12
        new[part] = w + bound / 3 * sum(terms) * lengths
    agrees(backbone, new)


def test_mlae_weighs_experts_of_rank_one() -> None:
    backbone, new = moved("mlae", rank=3), {}
    for name in LINEARS:
        a, b, strengths = (own_tensor(backbone, f"{name}.deltas.0.{tensor}") for tensor in ("down", "up", "strengths"))
        new[name] = doubles()[f"{name}.weight"] + sum(strengths[i] * torch.outer(b[i], a[i]) for i in range(3))
    blocks_with(backbone, new)


def test_mlae_masks_whole_experts_for_the_whole_batch() -> None:
    delta = moved("mlae", rank=4).get_submodule(f"net.blocks.{LAYER}.attn.proj.deltas.0").train()
    a, b, strengths = (delta.get_parameter(name).detach() for name in ("down", "up", "strengths"))
    x = tokens().double()
    sums = set()
    for seed in range(8):
        torch.manual_seed(seed)
        found = delta(x).detach()
        fits = [
            kept
            for kept in range(16)
            if torch.allclose(
                found,
                sum(
                    (2 * strengths[i] * torch.outer(x.view(-1, WIDTH) @ a[i], b[i]) for i in range(4) if kept >> i & 1),
                    torch.zeros(()),
                ).view_as(found)
                if kept
                else torch.zeros_like(found),
                atol=1e-12,
            )
        ]
        assert len(fits) == 1
        sums.add(fits[0])
    assert len(sums) > 3


@pytest.mark.parametrize("mask", ["random", "magnitude"])
def test_shira_moves_its_entries_and_no_other(mask: str) -> None:
    backbone, new, seen = moved("shira", rank=3, mask=mask), {}, []
    for part in ("q", "v"):
        name = f"net.blocks.{LAYER}.attn.qkv.changes.{OUT[part]}"
        places, values = backbone.get_buffer(f"{name}.places"), backbone.get_parameter(f"{name}.values").detach()
        assert len(places.unique()) == 3 * 2 * WIDTH
        seen.append(places)
        w = frozen(part).flatten()
        if mask == "magnitude":
            assert w.abs()[places].min() >= w.abs()[[i for i in range(len(w)) if i not in set(places.tolist())]].max()
        for place, value in zip(places, values, strict=True):
            w[place] += value
        new[part] = w.view(WIDTH, WIDTH)
    agrees(backbone, new)
    assert not torch.equal(*seen), "every matrix has places of its own"


def test_fourierft_sums_cosines() -> None:
    backbone, new = moved("fourierft", num_coefficients=5, scale=40.0), {}
    grid = torch.arange(WIDTH, dtype=torch.float64)
    for part in ("q", "v"):
        name = f"net.blocks.{LAYER}.attn.qkv.changes.{OUT[part]}"
        places, values = backbone.get_buffer(f"{name}.places"), backbone.get_parameter(f"{name}.values").detach()
        delta = torch.zeros(WIDTH, WIDTH, dtype=torch.float64)
        for place, value in zip(places.tolist(), values, strict=True):
            u, v = divmod(place, WIDTH)
            delta += value * torch.cos(2 * math.pi * (u * grid.unsqueeze(1) + v * grid) / WIDTH) / WIDTH**2
        new[part] = frozen(part) + 40 * delta
    agrees(backbone, new)


def test_fourierft_has_one_set_of_places_and_starts_from_a_normal() -> None:
    backbone = make("vit_layerscale")
    install(METHODS.get("fourierft")(num_coefficients=400), backbone, seed=5)
    changes = [module for name, module in backbone.named_modules() if ".changes." in name]
    assert len(changes) == 6 and all(
        torch.equal(m.get_buffer("places"), changes[0].get_buffer("places")) for m in changes
    )
    values = torch.cat([tensor.detach() for _, tensor in backbone.trainable])
    assert abs(values.mean()) < 0.1 and abs(values.std() - 1) < 0.1


def test_waveft_sums_haar_wavelets() -> None:
    backbone, new = moved("waveft", num_coefficients=60, scale=3.0), {}
    half = WIDTH // 2
    for part in ("q", "v"):
        name = f"net.blocks.{LAYER}.attn.qkv.changes.{OUT[part]}"
        places, values = backbone.get_buffer(f"{name}.places"), backbone.get_parameter(f"{name}.values").detach()
        delta = torch.zeros(WIDTH, WIDTH, dtype=torch.float64)
        for place, value in zip(places.tolist(), values, strict=True):
            row, column = divmod(place, WIDTH)
            # two entries each way: equal for means, of opposite sign for details
            down = torch.tensor([1.0, 1.0 if column < half else -1.0]).double() / 2**0.5
            across = torch.tensor([1.0, 1.0 if row < half else -1.0]).double() / 2**0.5
            i, j = 2 * (row % half), 2 * (column % half)
            delta[i : i + 2, j : j + 2] += value * torch.outer(down, across)
        new[part] = frozen(part) + 3 * delta
    agrees(backbone, new)


def test_apla_replaces_rows_of_the_output_projection() -> None:
    backbone, w = moved("apla", num_rows=5), doubles()
    places = backbone.get_buffer(f"net.blocks.{LAYER}.attn.proj.places")
    assert len(places.unique()) == 5
    w["attn.proj.weight"][places] = own_tensor(backbone, "attn.proj.rows")
    w["attn.proj.bias"][places] = own_tensor(backbone, "attn.proj.biases")
    blocks_with(backbone, {"attn.proj": w["attn.proj.weight"]}, {"attn.proj": w["attn.proj.bias"]})
    fresh = make("vit_layerscale")
    install(METHODS.get("apla")(num_rows=5), fresh)
    start = own_tensor(fresh, "attn.proj.rows")
    assert torch.equal(start.double(), doubles()["attn.proj.weight"][places])


@pytest.mark.parametrize(("threshold", "sparsity"), [("soft", 0.7), ("released", 0.7), ("soft", 0.0)])
def test_snell_thresholds_a_difference_of_distances(threshold: str, sparsity: float) -> None:
    backbone, new = moved("snell", rank=4, threshold=threshold, sparsity=sparsity, targets=["q", "v"]), {}
    for part in ("q", "v"):
        inner, outer = (own(backbone, f"deltas.{OUT[part]}.delta.{name}") for name in ("inner", "outer"))
        dense = torch.zeros(WIDTH, WIDTH, dtype=torch.float64)
        for o in range(WIDTH):
            for i in range(WIDTH):
                first, second = ((inner[n, i] - outer[n, o]).norm() for n in range(2))
                dense[o, i] = 0.1 * (first - second)
        limit = torch.quantile(dense.abs(), sparsity)
        kept = dense.abs() > limit
        if sparsity:
            assert abs(kept.double().mean() - (1 - sparsity)) < 1e-3
        delta = {"soft": dense.sign() * (dense.abs() - limit), "released": dense * dense.abs()}[threshold]
        new[part] = frozen(part) + (torch.where(kept, delta, 0.0) if sparsity else dense)
    agrees(backbone, new)


def test_snells_threshold_is_a_constant_to_the_gradient() -> None:
    backbone = moved("snell", rank=4, sparsity=0.5, targets=["q"])
    kernel: Any = backbone.get_submodule(f"net.blocks.{LAYER}.attn.qkv.deltas.0.delta")
    g = torch.randn(WIDTH, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (kernel.weight() * g).sum().backward()
    found = kernel.inner.grad.clone()
    kernel.zero_grad()
    distances = torch.cdist(kernel.inner, kernel.outer)
    dense = 0.1 * (distances[0] - distances[1]).T
    kept = (dense.detach().abs() > dense.detach().abs().quantile(0.5)).double()
    (dense * kept * g).sum().backward()
    torch.testing.assert_close(found, kernel.inner.grad, rtol=0, atol=1e-12)


def test_lora_vpt_scales_entries_and_adds_a_shared_input() -> None:
    backbone, w = moved("lora_vpt", rank=3), doubles()
    new, biases = {}, {}
    for name in LINEARS:
        u, v, p, q, d = (
            own_tensor(backbone, f"{name}.changes.0.{tensor}")
            for tensor in ("up", "down", "prompt_up", "prompt_down", "bias_scale")
        )
        weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
        new[name] = weight * (1 + u @ v)
        biases[name] = bias * (1 + d) + weight @ (p @ q)[:, 0]
    blocks_with(backbone, new, biases)


FORMS = [
    {},
    {"scale": "vector", "shift": "constant", "prompt": "none", "bias_scale": "none", "bias_shift": "vector"},
    {"scale": "constant", "shift": "vector", "prompt": "vector", "bias_scale": "constant", "bias_shift": "none"},
    {"scale": "none", "shift": "none", "prompt": "lora", "bias_scale": "vector", "bias_shift": "constant"},
]


@pytest.mark.parametrize("forms", FORMS, ids=str)
def test_glora_adds_the_supports_of_its_forms(forms: dict[str, str]) -> None:
    backbone, w = moved("glora", rank=2, **forms), doubles()
    new, biases = {}, {}
    for name in LINEARS:
        weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
        values: dict[str, Any] = dict.fromkeys("abcde", 0.0)
        prefix = f"net.blocks.{LAYER}.{name}.changes.0.supports."
        own_tensors = {n.removeprefix(prefix): t.detach() for n, t in backbone.trainable if n.startswith(prefix)}
        for letter in "abcde":
            up, down = own_tensors.get(f"{letter}.up"), own_tensors.get(f"{letter}.down")
            if up is not None:
                values[letter] = up if down is None else up @ down
        new[name] = weight + weight * values["a"] + values["b"]
        prompt = values["c"] if torch.is_tensor(values["c"]) else torch.zeros(weight.shape[1], 1, dtype=weight.dtype)
        d, e = (v[:, 0] if torch.is_tensor(v) else v for v in (values["d"], values["e"]))
        biases[name] = bias + bias * d + e + (weight @ prompt)[:, 0]
    blocks_with(backbone, new, biases)


def test_cara_sums_outer_products_of_its_factors() -> None:
    heads, dim, layers = 3, 16, 3
    backbone, w = moved("cara", rank=4, scale=2.0), doubles()

    def factors(name: str) -> tuple[list[Tensor], Tensor]:
        shared = backbone.get_submodule(f"shared.{name}")
        return [t.detach() for t in shared.get_submodule("factors").parameters()], shared.get_parameter(
            "strengths"
        ).detach()

    (a1, a2, a3, a4), r1 = factors("attention")
    assert [len(f) for f in (a1, a2, a3, a4)] == [3 * layers, WIDTH, heads, dim]
    attention = torch.einsum("r,kr,er,hr,dr->kehd", r1, a1, a2, a3, a4).flatten(2)
    (p1, p2, p3), r2 = factors("others")
    assert [len(f) for f in (p1, p2, p3)] == [9 * layers, WIDTH, WIDTH]
    others = torch.einsum("r,ar,br,cr->abc", r2, p1, p2, p3)
    k, o = 3 * LAYER, 9 * LAYER
    new = {
        "attn.qkv": torch.cat([attention[k + part].T for part in range(3)]),
        "attn.proj": others[o],
        "mlp.fc1": others[o + 1 : o + 5].reshape(4 * WIDTH, WIDTH),
        "mlp.fc2": others[o + 5 : o + 9].reshape(4 * WIDTH, WIDTH).T,
    }
    biases = {
        name: w[f"{name}.bias"] + 2 * backbone.get_parameter(f"shared.bias_{name.partition('.')[2]}.shift").detach()
        for name in ("attn.proj", "mlp.fc1", "mlp.fc2")
    }
    blocks_with(backbone, {name: w[f"{name}.weight"] + 2 * delta for name, delta in new.items()}, biases)


def test_caras_factors_start_as_released() -> None:
    backbone = make("vit_layerscale")
    install(METHODS.get("cara")(rank=16), backbone, seed=5)
    a1, a2, a3, a4 = backbone.get_submodule("shared.attention.factors").parameters()
    assert not a2.any() and abs(a1.std() - (2 / (9 + 16)) ** 0.5) < 0.04
    identity = torch.eye(16)
    torch.testing.assert_close(a4.T @ a4, identity, atol=1e-5, rtol=0)
    torch.testing.assert_close(a3 @ a3.T, identity[:3, :3], atol=1e-5, rtol=0)
    assert (backbone.get_parameter("shared.others.strengths") == 1).all()


def test_lora_fa_draws_its_inner_factor_from_the_options_and_freezes_it() -> None:
    first, other = (make("vit_layerscale") for _ in range(2))
    install(METHODS.get("lora")(down_seed=3), first, seed=0)
    install(METHODS.get("lora")(down_seed=3), other, seed=1)
    names = [name for name, _ in first.trainable]
    assert names and all(name.endswith(".up") for name in names)
    downs = {name: tensor for name, tensor in first.named_buffers() if name.endswith(".down")}
    assert len(downs) == 6 and all(torch.equal(tensor, other.get_buffer(name)) for name, tensor in downs.items())
    drawn = torch.stack(list(downs.values()))
    assert len({float(tensor[0, 0]) for tensor in drawn}) == 6 and 0.9 / 48**0.5 < drawn.abs().max() <= 1 / 48**0.5
    backbone, new = moved("lora", rank=2, alpha=4.0, down_seed=3, dropout=0.0), {}
    for part in ("q", "v"):
        down = backbone.get_buffer(f"net.blocks.{LAYER}.attn.qkv.deltas.{OUT[part]}.down")
        new[part] = frozen(part) + 2 * own(backbone, f"deltas.{OUT[part]}.up") @ down
    agrees(backbone, new)


def test_loras_plus_rates_are_the_outer_factors() -> None:
    method = METHODS.get("lora")(up_rate=16.0)
    assert {method.lr_scale("net.blocks.0.attn.qkv.deltas.0.down"), METHODS.get("lora")().lr_scale("x.up")} == {1.0}
    assert method.lr_scale("backbone.net.blocks.0.attn.qkv.deltas.0.up") == 16.0
