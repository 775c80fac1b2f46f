"""Equations of the selective and re-parameterising methods on one ViT block, written out with plain tensor operations.

As in test_equations.py: weights are read by name from the bare backbone, the method's own tensors from the installed
one after they were moved off their start, and the reference shares no code with the methods.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone
from peftbench.contracts.backbones import BUILDERS, make
from peftbench.foundation.errors import NotApplicable
from peftbench.methods.base import METHODS, install
from tests.golden.test_equations import (
    LAYER,
    WIDTH,
    Operation,
    agree,
    attention,
    block,
    installed,
    of_block,
    plain,
    run,
    tokens,
    weights,
)


def own(backbone: Backbone, name: str) -> Tensor:
    """A tensor of the installed block by its full name below the block."""
    tensor: Tensor = backbone.get_parameter(f"net.blocks.{LAYER}.{name}").detach()
    return tensor


def shared(backbone: Backbone, name: str) -> Tensor:
    return backbone.get_parameter(f"shared.{name}").detach()


def with_delta(w: dict[str, Tensor], deltas: dict[str, Tensor]) -> Operation:
    """The block's linear maps with a matrix added to their weight."""
    return plain({**w, **{f"{name}.weight": w[f"{name}.weight"] + delta for name, delta in deltas.items()}})


def moved(backbone: Backbone) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in backbone.net.blocks[LAYER].named_parameters()}  # type: ignore[union-attr, index]


@pytest.mark.parametrize(
    ("name", "options", "parts"),
    [
        ("block_only", {}, ("norm", "attn.", "ls", "mlp.")),
        ("attn_only", {}, ("attn.",)),
        ("attn_only", {"part": "qkv"}, ("attn.qkv.",)),
        ("mlp_only", {}, ("mlp.",)),
        ("mlp_only", {"part": "fc2"}, ("mlp.fc2.",)),
        ("ln_tune", {}, ("norm",)),
    ],
    ids=str,
)
def test_selected_tensors_move_in_place(name: str, options: dict[str, Any], parts: tuple[str, ...]) -> None:
    backbone, w = installed(name, **options), weights()
    new = moved(backbone)
    assert set(new) == set(w)
    for key in w:
        assert torch.equal(new[key], w[key]) != key.startswith(parts), key
    agree(run(backbone, tokens()), block(tokens(), new, plain(new)))


def test_attention_only_trains_the_position_embedding() -> None:
    def outside(**options: Any) -> set[str]:
        return {name for name, _ in installed("attn_only", **options).trainable if ".blocks." not in name}

    assert outside() == {"net.pos_embed"}
    assert outside(position_embedding=False) == set()


def test_difffit_scales_each_branch_behind_layerscale() -> None:
    backbone, w = installed("difffit"), weights()
    x, new = tokens(), moved(backbone)
    for name in ("norm1", "norm2", "attn.qkv", "mlp.fc1"):
        w[f"{name}.bias"] = new[f"{name}.bias"]
    for name in ("norm1", "norm2"):
        w[f"{name}.weight"] = new[f"{name}.weight"]
    for name in ("attn.proj", "mlp.fc2"):
        w[f"{name}.bias"] = new[f"{name}.base.bias"]
    op, g1, g2 = plain(w), new["attn.proj.scale"], new["mlp.fc2.scale"]
    x = x + g1 * w["ls1.gamma"] * op("attn.proj", attention(*op("attn.qkv", op("norm1", x)).split(WIDTH, dim=-1)))
    branch = op("mlp.fc2", nn.functional.gelu(op("mlp.fc1", op("norm2", x))))
    agree(run(backbone, tokens()), x + g2 * w["ls2.gamma"] * branch)


@pytest.mark.parametrize("name", ["vit_layerscale", "vit_qknorm", "vit_prenorm"])
def test_difffit_trains_each_bias_and_both_tensors_of_each_norm(name: str) -> None:
    # the rule of the released code: what has "bias" or "norm" in its name
    chosen = {tensor for tensor, _ in make(name).named_parameters() if "bias" in tensor or "norm" in tensor}
    assert any("q_norm.weight" in tensor for tensor in chosen) == (name == "vit_qknorm")
    backbone = make(name)
    install(METHODS.get("difffit")(), backbone)
    trained = {tensor.replace(".base.", ".") for tensor, _ in backbone.trainable}
    scales = {tensor for tensor in trained if tensor.endswith(".scale")}
    assert trained - scales == chosen and len(scales) == 2 * backbone.shape.depth


def test_shared_lora_has_one_a_for_queries_keys_and_values() -> None:
    backbone, w = installed("lora_qkv_shared", rank=3, scale=0.6), weights()
    (a,), (b,) = of_block(backbone, "down"), of_block(backbone, "up")
    assert (a.shape, b.shape) == ((3, WIDTH), (3 * WIDTH, 3))
    agree(run(backbone, tokens()), block(tokens(), w, with_delta(w, {"attn.qkv": 0.6 * b @ a})))


def fact_deltas(u: Tensor, v: Tensor, core: Callable[[int], Tensor], scale: float) -> dict[str, Tensor]:
    """Slices of one block in order: q, k, v, proj, four of fc1 (below each other), four of fc2 (side by side)."""
    slices = [scale * v @ core(j) @ u for j in range(12)]
    return {
        "attn.qkv": torch.cat(slices[:3]),
        "attn.proj": slices[3],
        "mlp.fc1": torch.cat(slices[4:8]),
        "mlp.fc2": torch.cat(slices[8:], dim=1),
    }


def test_fact_tensor_train() -> None:
    backbone, w, r = installed("fact_tt", rank=5, scale=0.7), weights(), 5
    u, v = shared(backbone, f"width_{WIDTH}.reduce"), shared(backbone, f"width_{WIDTH}.expand")
    cores = {name: own(backbone, f"{name}.deltas.0.cores") for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}
    stacked = [*cores["attn.qkv"].split(r), cores["attn.proj"], *cores["mlp.fc1"].split(r)]
    stacked += cores["mlp.fc2"].split(r, dim=1)
    agree(run(backbone, tokens()), block(tokens(), w, with_delta(w, fact_deltas(u, v, stacked.__getitem__, 0.7))))


def test_fact_tucker_mixes_the_cores_of_all_layers_from_one_cube() -> None:
    backbone, w, r = installed("fact_tk", rank=4, scale=0.7, mlp_cores="sliced"), weights(), 4
    u, v, cube, mixing = (shared(backbone, f"width_{WIDTH}.{name}") for name in ("reduce", "expand", "cube", "mixing"))
    assert mixing.shape == (r, 3 * 12)

    def core(j: int) -> Tensor:
        # indices of the cube: input, output, component; the last linear map uses it the other way round
        mixed = torch.zeros(r, r)
        for c in range(r):
            mixed += cube[:, :, c] * mixing[c, LAYER * 12 + j]
        return mixed if j >= 8 else mixed.T

    agree(run(backbone, tokens()), block(tokens(), w, with_delta(w, fact_deltas(u, v, core, 0.7))))


def test_fact_tucker_reads_the_cores_of_the_mlp_as_the_released_code_does() -> None:
    """Its tensors FacTu, FacTv, FacTc, FacTp are `reduce`, `expand`, `cube`, `mixing`, and its forward pass is ours."""
    backbone, w, r = installed("fact_tk", rank=4, scale=0.7), weights(), 4
    u, v, cube, mixing = (shared(backbone, f"width_{WIDTH}.{name}") for name in ("reduce", "expand", "cube", "mixing"))
    c = torch.einsum("abc,cj->abj", cube, mixing[:, LAYER * 12 : (LAYER + 1) * 12])
    # [r, r, 4] read as [r, 4 r]: the four cores of an MLP matrix interleave
    first, last = c[:, :, 4:8].reshape(r, 4 * r), c[:, :, 8:].reshape(r, 4 * r)

    def op(name: str, x: Tensor) -> Tensor:
        y, reduced = plain(w)(name, x), x.unflatten(-1, (-1, WIDTH)) @ u.T
        if name == "mlp.fc1":
            mixed = (reduced.flatten(-2) @ first).unflatten(-1, (4, r))
        elif name == "mlp.fc2":
            mixed = (reduced.flatten(-2) @ last.T).unflatten(-1, (1, r))
        else:
            own = {"attn.qkv": [0, 1, 2], "attn.proj": [3]}.get(name, [])
            if not own:
                return y
            mixed = torch.stack([reduced.flatten(-2) @ c[:, :, j] for j in own], dim=-2)
        return y + 0.7 * (mixed @ v.T).flatten(-2)

    agree(run(backbone, tokens()), block(tokens(), w, op))


def test_kadaptation_can_add_the_query_delta_behind_the_scaling() -> None:
    x, width = tokens(), WIDTH
    plainly, scaled = installed("kadaptation", num_rules=4), installed("kadaptation", num_rules=4, queries="scaled")
    own_bare = make("vit_layerscale").sites("attn.qkv")[LAYER].module
    added, more = (b.sites("attn.qkv")[LAYER].module(x) - own_bare(x) for b in (plainly, scaled))
    # q' / sqrt(d) + delta = (q' + sqrt(d) delta) / sqrt(d), heads of 16 channels
    agree(more[..., :width], 4 * added[..., :width])
    agree(more[..., width:], added[..., width:])


def test_hydra_adds_a_branch_before_and_a_branch_behind() -> None:
    backbone, w = installed("hydra", rank=3, scale=0.4), weights()

    def op(name: str, x: Tensor) -> Tensor:
        y = plain(w)(name, x)
        if name not in ("attn.proj", "mlp.fc2"):
            return y
        added = torch.zeros_like(y)
        for branch, z in (("parallel", x), ("sequential", y)):
            a, a0, b, b0 = (
                own(backbone, f"{name}.{branch}.{part}")
                for part in ("down.weight", "down.bias", "up.weight", "up.bias")
            )
            added = added + (z @ a.T + a0) @ b.T + b0
        return y + 0.4 * added

    agree(run(backbone, tokens()), block(tokens(), w, op))


@pytest.mark.parametrize(
    ("options", "shapes"), [({}, ((6, 8), (8, 6))), ({"rows": 4, "columns": 3}, ((4, 3), (12, 16)))]
)
def test_krona_adds_a_kronecker_product_to_q_and_v(options: dict[str, Any], shapes: tuple[Any, Any]) -> None:
    backbone, w = installed("krona", scale=0.5, **options), weights()
    delta = torch.zeros(3 * WIDTH, WIDTH)
    for part in (0, 2):
        a, b = (own(backbone, f"attn.qkv.deltas.{part}.{name}") for name in ("first", "second"))
        assert (a.shape, b.shape) == shapes
        blocks = [torch.cat([a[p, k] * b for k in range(a.shape[1])], dim=1) for p in range(len(a))]
        delta[part * WIDTH : (part + 1) * WIDTH] = 0.5 * torch.cat(blocks)
    agree(run(backbone, tokens()), block(tokens(), w, with_delta(w, {"attn.qkv": delta})))


def test_krona_refuses_a_factor_that_does_not_divide_the_width() -> None:
    with pytest.raises(NotApplicable, match=r"method\.rows = 7 does not divide the width 48"):
        install(METHODS.get("krona")(**{"rows": 7}), make("vit_cls"))


def test_kadaptation_sums_kronecker_products_with_shared_rules() -> None:
    t, backbone, w = 4, installed("kadaptation", num_rules=4, scale=2.0), weights()
    delta = torch.zeros(3 * WIDTH, WIDTH)
    for part, name in ((0, "q"), (2, "v")):
        a, a2 = shared(backbone, f"rules_{name}.left"), shared(backbone, f"rules_{name}.right")
        u, v = own(backbone, f"attn.qkv.deltas.{part}.left"), own(backbone, f"attn.qkv.deltas.{part}.right")
        for i in range(t):
            delta[part * WIDTH : (part + 1) * WIDTH] += 2.0 * torch.kron(
                torch.outer(a[i], a2[i]), torch.outer(u[i], v[i])
            )
    bias = shared(backbone, f"bias_{LAYER}.values")
    w["attn.qkv.bias"] = w["attn.qkv.bias"] + torch.cat([bias, torch.zeros(WIDTH), bias])
    agree(run(backbone, tokens()), block(tokens(), w, with_delta(w, {"attn.qkv": delta})))


def test_kadaptation_drops_entries_of_the_assembled_matrix() -> None:
    backbone = installed("kadaptation", num_rules=4, scale=2.0, dropout=0.5)
    delta = backbone.get_submodule(f"net.blocks.{LAYER}.attn.qkv.deltas.0").train()
    bias, eye = shared(backbone, f"bias_{LAYER}.values"), torch.eye(WIDTH)
    with torch.no_grad():
        full = delta.eval()(eye) - bias
        torch.manual_seed(0)
        dropped = delta.train()(eye) - bias
    kept = dropped.abs() > 1e-6
    assert 0.4 < kept.float().mean() < 0.6
    torch.testing.assert_close(dropped[kept], 2 * full[kept], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("num_flows", [0, 3])
def test_snf_bends_the_shortcuts(num_flows: int) -> None:
    backbone, w = installed("snf", num_flows=num_flows), weights()

    def flow(half: int, x: Tensor) -> Tensor:
        z = own(backbone, f"taps.{half}.shift") + own(backbone, f"taps.{half}.log_scale").exp() * x
        for k in range(num_flows):
            u, plane, c = (own(backbone, f"taps.{half}.{name}")[k] for name in ("steps", "planes", "offsets"))
            z = z + u * torch.tanh((z * plane).sum(-1, keepdim=True) + c)
        return z

    x, op = tokens(), plain(w)
    x = flow(0, x) + w["ls1.gamma"] * op("attn.proj", attention(*op("attn.qkv", op("norm1", x)).split(WIDTH, dim=-1)))
    x = flow(1, x) + w["ls2.gamma"] * op("mlp.fc2", nn.functional.gelu(op("mlp.fc1", op("norm2", x))))
    agree(run(backbone, tokens()), x)


def test_shared_factors_are_listed_once_and_gone_after_merging() -> None:
    for name in ("fact_tt", "fact_tk", "kadaptation"):
        backbone, method = make("vit_cls"), METHODS.get(name)()
        bare = {key for key, _ in backbone.named_parameters()}
        install(method, backbone)
        listed = [id(p) for key, p in backbone.named_parameters(remove_duplicate=False)]
        assert len(listed) == len(set(listed))
        method.merge(backbone)
        assert {key for key, _ in backbone.named_parameters()} - bare <= set()


def test_initial_values() -> None:
    for name, zero in (("fact_tt", "expand"), ("fact_tk", "expand"), ("krona", "first"), ("kadaptation", "right")):
        backbone = make("vit_cls")
        install(METHODS.get(name)(), backbone)
        zeros = [key for key, p in backbone.trainable if not p.any()]
        drawn = [key for key, p in backbone.trainable if p.any()]
        assert zeros and drawn and all(zero in key or "bias" in key for key in zeros), zeros
    snf = make("vit_cls")
    install(METHODS.get("snf")(**{"num_flows": 16}), snf)
    for key, p in snf.trainable:
        assert not p.any() if "shift" in key or "log_scale" in key else 0 < p.abs().max() <= 0.01


def test_methods_with_separate_qkv_parts_refuse_a_convolutional_network() -> None:
    assert "convnext" in BUILDERS
    for name in ("fact_tt", "fact_tk", "hydra", "krona", "kadaptation", "attn_only", "lora_qkv_shared", "snf"):
        backbone = make("convnext")
        before = [key for key, _ in backbone.named_parameters()]
        with pytest.raises(NotApplicable):
            install(METHODS.get(name)(), backbone)
        assert [key for key, _ in backbone.named_parameters()] == before
