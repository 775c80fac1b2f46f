"""Side networks written out with plain tensor operations around bare blocks, against the installed methods."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.backbones.base import Backbone
from peftbench.contracts.backbones import images, make
from peftbench.methods.base import METHODS, install
from peftbench.methods.hst import PyramidBlock


def installed(name: str, backbone: str, **options: Any) -> tuple[Backbone, dict[str, Tensor]]:
    """The method on a tiny backbone in eval mode and its tensors, all moved off their start."""
    built = make(backbone)
    install(METHODS.get(name)(**options), built, seed=5)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for _, tensor in built.trainable:
            tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator))
    return built.eval(), {tensor_name: tensor.detach() for tensor_name, tensor in built.trainable}


def at(tensors: dict[str, Tensor], layer: int, end: str) -> Tensor:
    """The tensor of one block whose name ends so."""
    (found,) = [t for name, t in tensors.items() if f".blocks.{layer}." in name and name.endswith(end)]
    return found


def embedded(net: Any) -> Tensor:
    """Tokens as the first block of a bare plain transformer sees them."""
    out: Tensor = net.norm_pre(net.patch_drop(net._pos_embed(net.patch_embed(images(2)))))
    return out


def agree(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def depthwise(theta: Tensor, kernel: Tensor, prefix: int) -> Tensor:
    """A 3 x 3 convolution of each channel over the 4 x 4 patches, written as nine shifted products."""
    maps = F.pad(theta[:, prefix:].reshape(2, 4, 4, -1), (0, 0, 1, 1, 1, 1))
    out = sum(maps[:, i : i + 4, j : j + 4] * kernel[:, 0, i, j] for i in range(3) for j in range(3))
    assert isinstance(out, Tensor)
    return torch.cat([theta[:, :prefix], out.reshape(2, 16, -1)], dim=1)


@torch.no_grad()
def dtl(backbone: str, tensors: dict[str, Tensor], prefix: int, norm: str, first: int, kernel: Tensor | None) -> Tensor:
    bare: Any = make(backbone).net
    x = embedded(bare)
    e = torch.zeros_like(x)
    for layer, block in enumerate(bare.blocks):
        e = e + x @ at(tensors, layer, "down").T @ at(tensors, layer, "up").T
        x = block(x)
        if layer >= first:
            theta = e * torch.sigmoid(100 * e)
            x = x + (theta if kernel is None else depthwise(theta, kernel, prefix))
    w: Any = getattr(bare, norm)
    return F.layer_norm(x[:, prefix:].mean(dim=1), (48,), w.weight, w.bias, eps=1e-6)


@torch.no_grad()
def test_dtl_accumulates_and_writes_back_into_the_late_blocks() -> None:
    for name, prefix, norm in (("vit_cls", 1, "norm"), ("vit_avg", 0, "fc_norm"), ("vit_distilled", 2, "norm")):
        backbone, tensors = installed("dtl", name)
        agree(backbone(images(2)), dtl(name, tensors, prefix, norm, 1, None))
    backbone, tensors = installed("dtl", "vit_layerscale", untouched=0.7, rank=3)
    agree(backbone(images(2)), dtl("vit_layerscale", tensors, 1, "norm", 2, None))


@torch.no_grad()
def test_dtl_plus_convolves_the_patches_with_one_kernel() -> None:
    for name, prefix in (("vit_cls", 1), ("vit_registers", 3)):
        backbone, tensors = installed("dtl_plus", name)
        (kernel,) = [t for t in tensors.values() if t.shape == (48, 1, 3, 3)]
        agree(backbone(images(2)), dtl(name, tensors, prefix, "norm", 1, kernel))


@torch.no_grad()
def test_dtl_starts_anew_in_every_stage_of_swin() -> None:
    backbone, tensors = installed("dtl", "swin")
    bare: Any = make("swin").net
    x, number = bare.patch_embed(images(2)), 0
    for depth, stage in enumerate(bare.layers):
        x = stage.downsample(x)
        e = torch.zeros_like(x)
        for index, block in enumerate(stage.blocks):
            own = f"net.layers.{depth}.blocks.{index}.step.delta."
            e = e + x @ tensors[own + "down"].T @ tensors[own + "up"].T
            x = block(x) + (e * torch.sigmoid(100 * e) if number >= 1 else 0)
            number += 1
    agree(backbone(images(2)), bare.norm(x).mean(dim=(1, 2)))


def highway(w: dict[str, Tensor], prefix: str, y: Tensor) -> Tensor:
    """A(y): both projections are sums of products with the same kernels."""
    t = below(w, prefix)
    down = torch.einsum("iwr,irs,ish->wh", t["down_left"], t["kernels"], t["down_right"])
    up = torch.einsum("ihr,irs,isw->hw", t["up_left"], t["kernels"], t["up_right"])
    return F.gelu(y @ down + t["down_bias"]) @ up + t["up_bias"]


@torch.no_grad()
def test_e3va_adds_what_its_adapters_read_of_the_frozen_branches_to_the_last_stream() -> None:
    for name, norm in (("vit_layerscale", "norm"), ("vit_avg", "fc_norm")):
        backbone, tensors = installed("e3va", name, num_branches=3, rank=4, reduction=6)
        bare: Any = make(name).net
        x = embedded(bare)
        e = torch.zeros_like(x)
        for layer, block in enumerate(bare.blocks):
            own = f"net.blocks.{layer}.adapters."
            y = block.attn(block.norm1(x))
            z = block.mlp(block.norm2(x + block.ls1(y)))
            e = e + highway(tensors, f"{own}attn.", y) + highway(tensors, f"{own}mlp.", z)
            x = block(x)
        pooled = (x + e).mean(dim=1) if norm == "fc_norm" else (x + e)[:, 0]
        agree(backbone(images(2)), normed(pooled, tensors, f"net.{norm}"))


@torch.no_grad()
def test_e3va_takes_the_highway_of_swin_through_the_merging_steps() -> None:
    backbone, tensors = installed("e3va", "swin")
    bare: Any = make("swin").net
    x = bare.patch_embed(images(2))
    e = torch.zeros_like(x)
    for depth, stage in enumerate(bare.layers):
        x, e = stage.downsample(x), stage.downsample(e) if depth else e
        for index, block in enumerate(stage.blocks):
            own = f"net.layers.{depth}.blocks.{index}.adapters."
            y = block._attn(block.norm1(x))
            z = block.mlp(block.norm2(x + y))
            e = e + highway(tensors, f"{own}attn.", y) + highway(tensors, f"{own}mlp.", z)
            x = block(x)
    agree(backbone(images(2)), normed(x + e, tensors, "net.norm", 1e-5).mean(dim=(1, 2)))


def attention(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, head by head."""
    d = q.shape[-1] // num_heads
    parts = zip(q.split(d, -1), k.split(d, -1), v.split(d, -1), strict=True)
    return torch.cat([(a @ b.transpose(1, 2) / d**0.5).softmax(dim=-1) @ c for a, b, c in parts], dim=-1)


def normed(x: Tensor, w: dict[str, Tensor], name: str, eps: float = 1e-6) -> Tensor:
    return F.layer_norm(x, (x.shape[-1],), w[f"{name}.weight"], w[f"{name}.bias"], eps)


def linear(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}


@torch.no_grad()
def test_lst_climbs_the_ladder_with_gates() -> None:
    backbone, tensors = installed("lst", "vit_registers")
    bare: Any = make("vit_registers").net
    h = embedded(bare)
    z = h @ at(tensors, 0, "start.weight").T
    assert z.shape[-1] == 6
    for layer, frozen in enumerate(bare.blocks):
        h, w = frozen(h), below(tensors, f"net.blocks.{layer}.step.block.")
        gate = 1 / (1 + torch.exp(-at(tensors, layer, "gate") / 0.1))
        z = gate * z + (1 - gate) * (h @ at(tensors, layer, "down.weight").T)
        z = z + linear(attention(*linear(normed(z, w, "norm1"), w, "attn.qkv").split(6, -1), 3), w, "attn.proj")
        z = z + linear(F.gelu(linear(normed(z, w, "norm2"), w, "mlp.fc1")), w, "mlp.fc2")
    agree(backbone(images(2)), bare.norm(z @ at(tensors, 2, "up.weight").T)[:, 0])


@torch.no_grad()
def test_last_sums_frozen_tokens_and_subtracts_them_again() -> None:
    for name in ("vit_cls", "vit_registers"):
        backbone, tensors = installed("last", name, rank=4)
        bare: Any = make(name).net
        z = [embedded(bare)]
        u = z[0]
        for layer, frozen in enumerate(bare.blocks):
            z.append(frozen(z[-1]))
            w = below(tensors, f"net.blocks.{layer}.step.attention.")
            v = u + z[-1]
            q, k, value = (normed(v, w, "norm") @ w["qkv"].T).split(4, dim=-1)
            u = v + attention(q, k, value, 1) @ w["out"].T
        agree(backbone(images(2)), bare.norm(u - sum(z[:-1]))[:, 0])


@torch.no_grad()
def test_hst_guides_a_pyramid_by_meta_tokens_and_maps() -> None:
    for name, prefix in (("vit_cls", 1), ("vit_registers", 3)):
        backbone, tensors = installed("hst", name, num_tokens=2)
        agree(backbone(images(2)), hst(name, tensors, prefix))


def hst(name: str, tensors: dict[str, Tensor], prefix: int) -> Tensor:
    """Three stages of one block each, as the tiny backbone has three blocks."""
    bare: Any = make(name).net
    x, maps = embedded(bare), images(2)
    for layer, block in enumerate(bare.blocks):
        for key in ("norm1", "norm2"):
            moved = {end: at(tensors, layer, f"base.{key}.{end}") for end in ("weight", "bias")}
            getattr(block, key).load_state_dict(moved)
        own = at(tensors, layer, "tokens").expand(2, -1, -1)
        meta, x = block(torch.cat([own, x], dim=1)).split([2, x.shape[1]], dim=1)
        w = below(tensors, f"readout.stages.{layer}.")
        if layer == 0:
            maps = F.conv2d(maps, w["down.0.weight"], stride=2, padding=1)
            maps = maps / (1 + 1e-5) ** 0.5 * w["down.1.weight"].view(-1, 1, 1) + w["down.1.bias"].view(-1, 1, 1)
            maps = F.conv2d(maps.relu(), w["down.3.weight"], w["down.3.bias"], stride=2)
        else:
            maps = F.conv2d(maps, w["down.weight"], w["down.bias"], stride=2, padding=1)
        size, s = maps.shape[2:], normed(maps.flatten(2).transpose(1, 2), w, "norm_down", 1e-5)
        patches = x[:, prefix:].transpose(1, 2).reshape(2, 48, 4, 4)
        seen = F.interpolate(patches, size=size, mode="bilinear").flatten(2).transpose(1, 2)
        seen, b = linear(seen, w, "bridge"), below(w, "blocks.0.")
        guide = torch.cat([normed(linear(meta, w, "bridge"), b, "norm_meta", 1e-5), seen.mean(1, keepdim=True)], dim=1)
        keys, values = linear(guide, b, "kv").chunk(2, dim=-1)
        query = linear(normed(s, b, "norm1"), b, "q")
        s = s + linear(attention(query, keys, values, (2, 4, 8)[layer]), b, "proj") + seen
        s = s + linear(F.gelu(linear(normed(s, b, "norm2"), b, "mlp.0")), b, "mlp.2")
        maps = normed(s, w, "norm").transpose(1, 2).reshape(2, -1, *size)
    return maps.mean(dim=(2, 3)) / (1 + 1e-6) ** 0.5


@torch.no_grad()
def test_hst_drops_attention_and_mlp_of_whole_images_and_never_the_maps() -> None:
    backbone, _ = installed("hst", "vit_cls", drop_path=0.5)
    blocks = [module for module in backbone.modules() if isinstance(module, PyramidBlock)]
    assert [block.drop_path.drop_prob for block in blocks] == [0, 0.25, 0.5]
    block, halves = blocks[-1].train(), []
    for half in (block.proj, block.mlp):
        half.register_forward_hook(lambda _module, _inputs, output: halves.append(output))
    s, meta, m = (torch.randn(64, length, 64) for length in (4, 2, 4))
    left = block(s, meta, m) - s - m
    attended, thought = halves
    seen = set()
    for image in range(64):
        fits = [
            (a, b)
            for a in (0, 2)
            for b in (0, 2)
            if torch.allclose(left[image], a * attended[image] + b * thought[image], atol=1e-4)
        ]
        assert len(fits) == 1
        seen.add(fits[0])
    assert seen == {(0, 0), (0, 2), (2, 0), (2, 2)}


def residual(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    return x + linear(F.gelu(linear(x, w, f"{name}.down")), w, f"{name}.up")


def normed_as_torch_does(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["vit_cls", "vit_layerscale"])
def test_synqt_asks_every_block_with_queries_of_its_own_and_combines_the_answers(name: str) -> None:
    backbone, tensors = installed("synqt", name, num_tokens=2)
    bare: Any = make(name).net
    x, answers, by_attention, by_mlp = embedded(bare), [], [], []
    for layer, frozen in enumerate(bare.blocks):
        w = below(tensors, f"net.blocks.{layer}.synthesis.")
        queries = w["queries"].expand(2, -1, -1)
        if answers:
            queries = queries + tensors["shared.answer_scale.value"] * answers[-1].unsqueeze(1)
        queries = residual(queries, w, "enter")
        seen = normed_as_torch_does(queries, w, "norm1")
        q, kv = (normed_as_torch_does(seen, w, f"attn.norm_{part}") for part in ("q", "kv"))
        q, k, v = residual(q, w, "attn.q"), residual(kv, w, "attn.k"), residual(kv, w, "attn.v")
        mixed = (q @ k.transpose(1, 2) / 48**0.5).softmax(dim=-1) @ v
        queries = queries + w["attn_scale"] * residual(mixed, w, "attn.proj")
        queries = queries + w["mlp_scale"] * residual(normed_as_torch_does(queries, w, "norm2"), w, "mlp")
        # masked as keys, the queries see the tokens and are seen by nobody
        length = x.shape[1]
        mask = torch.ones(length + 2, length + 2, dtype=torch.bool)
        mask[:, length:] = False
        together = torch.cat([x, queries], dim=1)
        first = frozen.ls1(frozen.attn(frozen.norm1(together), attn_mask=mask))
        second = frozen.ls2(frozen.mlp(frozen.norm2(together + first)))
        found = (together + first + second, first, second)
        for kept, part in zip((answers, by_attention, by_mlp), found, strict=True):
            kept.append(part[:, length:].mean(dim=1))
        x = frozen(x)
    w = below(tensors, "readout.")
    vectors = torch.stack([answers[-1], *answers, *by_attention, *by_mlp], dim=1)
    vectors = vectors + residual(normed_as_torch_does(vectors, w, "norm"), w, "mlp")
    weights = torch.tanh(F.gelu(linear(vectors[:, 0], w, "weights")))
    mean = (vectors[:, 0] + (weights.unsqueeze(2) * vectors[:, 1:]).sum(dim=1)) / 10
    agree(backbone(images(2)), normed_as_torch_does(mean, w, "norm_out"))


def test_synqts_queries_and_last_norm_start_as_released() -> None:
    backbone, bare = make("vit_cls"), make("vit_cls")
    install(METHODS.get("synqt")(num_tokens=40), backbone)
    queries = torch.stack([tensor for name, tensor in backbone.trainable if name.endswith("queries")])
    assert 0.99 < queries.abs().max() <= 1
    readout: Any = backbone.readout
    norm: Any = bare.net.norm
    assert torch.equal(readout.norm_out.weight, norm.weight) and torch.equal(readout.norm_out.bias, norm.bias)


def test_synqt_drops_whole_vectors_and_never_the_first() -> None:
    backbone, _ = installed("synqt", "vit_cls")
    readout: Any = backbone.readout
    seen: list[Tensor] = []
    readout.thinned.train().register_forward_hook(lambda _, inputs, output: seen.append(output / inputs[0]))
    with torch.no_grad():
        readout(torch.randn(200, 10, 48))
    (kept,) = seen
    assert kept.shape == (200 * 9, 48)
    torch.testing.assert_close(kept, kept.sign() / 0.7)
    assert torch.equal(kept > 0, (kept[:, :1] > 0).expand_as(kept)) and 0.65 < (kept > 0).float().mean() < 0.75
