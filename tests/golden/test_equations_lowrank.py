"""Equations of LoRA's options and its kin on one ViT block, in float64 against an independent computation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from peftbench.backbones.base import Backbone
from peftbench.contracts.backbones import make
from peftbench.methods.base import METHODS, install
from tests.golden.test_equations import LAYER, WIDTH, block, plain, tokens, weights

OUT = {"q": 0, "k": 1, "v": 2}


def moved(name: str, **options: Any) -> Backbone:
    """The method on a tiny ViT in eval mode and double precision, its tensors moved off their start."""
    built = make("vit_layerscale")
    install(METHODS.get(name)(**options), built, seed=5)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for _, tensor in built.trainable:
            tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator))
    return built.double().eval()


def own(backbone: Backbone, name: str) -> Tensor:
    tensor: Tensor = backbone.get_parameter(f"net.blocks.{LAYER}.attn.qkv.{name}").detach()
    return tensor


def frozen(part: str) -> Tensor:
    """W of q, k or v before any method, [48, 48]."""
    return weights()["attn.qkv.weight"].double()[OUT[part] * WIDTH : (OUT[part] + 1) * WIDTH]


def agrees(backbone: Backbone, new: dict[str, Tensor]) -> None:
    """The installed block is the plain one with these matrices for q, k or v."""
    w = {name: tensor.double() for name, tensor in weights().items()}
    parts = [new.get(part, frozen(part)) for part in OUT]
    w["attn.qkv.weight"] = torch.cat(parts)
    x = tokens().double()
    with torch.no_grad():
        found = backbone.net.blocks[LAYER](x)  # type: ignore[union-attr, index, operator]
    torch.testing.assert_close(found, block(x, w, plain(w)), rtol=0, atol=1e-12)


def test_dora_gives_each_row_its_own_length() -> None:
    backbone, new = moved("dora", rank=3, alpha=6.0), {}
    for part in ("q", "v"):
        name = f"changes.{OUT[part]}"
        a, b, m = (own(backbone, f"{name}.{tensor}") for tensor in ("pair.down", "pair.up", "magnitude"))
        rows = []
        for row, w in enumerate(frozen(part)):
            direction = w + 2.0 * sum(b[row, i] * a[i] for i in range(3))
            rows.append(m[row] * direction / (direction**2).sum().sqrt())
        new[part] = torch.stack(rows)
    agrees(backbone, new)


def test_doras_norm_is_a_constant_to_the_gradient() -> None:
    backbone = moved("dora", rank=3, alpha=3.0)
    change = backbone.get_submodule(f"net.blocks.{LAYER}.attn.qkv.changes.0")
    w = frozen("q")
    g = torch.randn(w.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (change(w, None)[0] * g).sum().backward()
    a, b, m = (change.get_parameter(name) for name in ("pair.down", "pair.up", "magnitude"))
    norm = (w + b @ a).detach().norm(dim=1)
    expected = (g * (m.detach() / norm).unsqueeze(1)) @ a.detach().T
    torch.testing.assert_close(b.grad, expected, rtol=0, atol=1e-12)


def test_doras_dropout_leaves_the_frozen_path_alone() -> None:
    backbone = moved("dora", rank=3, dropout=0.5)
    qkv = backbone.get_submodule(f"net.blocks.{LAYER}.attn.qkv").train()
    x = tokens().double()
    with torch.no_grad():
        torch.manual_seed(0)
        found = qkv(x)
        torch.manual_seed(0)
        dropped = torch.nn.functional.dropout(x, 0.5)
        weight = qkv.tensors()[0]  # type: ignore[operator]
        base = qkv.get_submodule("base")
        expected = base(x) + dropped @ (weight - base.weight).T
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["vera", "pvera"])
def test_vera_scales_one_random_pair(name: str) -> None:
    rank = 6
    backbone, new = moved(name, rank=rank, projection_seed=3), {}
    generator = torch.Generator().manual_seed(3)
    rows = rank if name == "vera" else 2 * rank
    a = torch.empty(rows, WIDTH).uniform_(-1, 1, generator=generator).double() * (6 / WIDTH) ** 0.5
    b = torch.empty(WIDTH, rank).uniform_(-1, 1, generator=generator).double() * (6 / rank) ** 0.5
    for tensor, drawn in (("down", a), ("up", b)):
        stored = backbone.get_buffer(f"shared.projections.{tensor}")
        torch.testing.assert_close(stored, drawn, rtol=0, atol=1e-6)
    a, b = (backbone.get_buffer(f"shared.projections.{tensor}") for tensor in ("down", "up"))
    for part in ("q", "v"):
        inner, outer = own(backbone, f"deltas.{OUT[part]}.inner"), own(backbone, f"deltas.{OUT[part]}.outer")
        new[part] = frozen(part) + torch.diag(outer) @ b @ torch.diag(inner[:rank]) @ a[:rank]
    agrees(backbone, new)


def test_pvera_samples_its_code_in_training_alone() -> None:
    backbone = moved("pvera", rank=4)
    delta = backbone.get_submodule(f"net.blocks.{LAYER}.attn.qkv.deltas.0")
    x = torch.randn(4000, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(2))[:1].expand(4000, -1)
    a, b = (backbone.get_buffer(f"shared.projections.{tensor}") for tensor in ("down", "up"))
    inner, outer = delta.get_parameter("inner"), delta.get_parameter("outer")
    with torch.no_grad():
        mean, log_variance = (inner * (x[0] @ a.T)).chunk(2)
        torch.testing.assert_close(delta(x[:1])[0], outer * (b @ mean), rtol=0, atol=1e-12)
        torch.manual_seed(0)
        codes = torch.linalg.lstsq(b, (delta.train()(x) / outer).T).solution
    assert (codes.mean(dim=1) - mean).abs().max() < 0.1 * log_variance.exp().sqrt().max()
    torch.testing.assert_close(codes.var(dim=1), log_variance.exp(), rtol=0.1, atol=0)


def start(**options: Any) -> Backbone:
    backbone = make("vit_layerscale")
    install(METHODS.get("lora")(dropout=0.0, **options), backbone, seed=5)
    return backbone.eval()


@pytest.mark.parametrize(("scaling", "scale"), [("rank", 6 / 4), ("rank_root", 3.0)])
@pytest.mark.parametrize("init", ["kaiming", "pissa", "olora"])
def test_options_of_lora(init: str, scaling: str, scale: float) -> None:
    options = {"rank": 4, "alpha": 6.0, "init": init, "scaling": scaling}
    first, backbone, new = start(**options), moved("lora", **options), {}
    for part in ("q", "v"):
        name, w = f"deltas.{OUT[part]}", frozen(part)
        a0, b0 = own(first, f"{name}.down").double(), own(first, f"{name}.up").double()
        a, b = own(backbone, f"{name}.down"), own(backbone, f"{name}.up")
        new[part] = w + scale * (b @ a - b0 @ a0)
        if init == "pissa":
            u, s, vt = torch.linalg.svd(w)
            torch.testing.assert_close(scale * b0 @ a0, u[:, :4] @ s[:4].diag() @ vt[:4], rtol=0, atol=1e-5)
            torch.testing.assert_close(b0.norm(dim=0), a0.norm(dim=1), rtol=0, atol=1e-5)
        if init == "olora":
            torch.testing.assert_close(b0.T @ b0, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-5)
            torch.testing.assert_close(b0 @ a0, b0 @ b0.T @ w, rtol=0, atol=1e-5)
    agrees(backbone, new)
    unchanged = start(**options)
    x = tokens()
    with torch.no_grad():
        found = unchanged.net.blocks[LAYER](x)  # type: ignore[union-attr, index, operator]
    torch.testing.assert_close(found, block(x, weights(), plain(weights())), rtol=1e-5, atol=1e-5)


def test_beft_moves_the_bias_of_the_values() -> None:
    backbone, w = moved("beft"), {name: tensor.double() for name, tensor in weights().items()}
    w["attn.qkv.bias"][2 * WIDTH :] += own(backbone, "deltas.2.values")
    x = tokens().double()
    with torch.no_grad():
        found = backbone.net.blocks[LAYER](x)  # type: ignore[union-attr, index, operator]
    torch.testing.assert_close(found, block(x, w, plain(w)), rtol=0, atol=1e-12)
