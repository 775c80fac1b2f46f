"""Equations of the methods inside attention, written out for one ViT block, against the installed methods."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.backbones.base import Backbone
from peftbench.contracts.backbones import images, make
from peftbench.foundation.errors import ConfigError, NotApplicable
from peftbench.methods.base import METHODS, install
from tests.golden.test_equations import (
    HEADS,
    LAYER,
    WIDTH,
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

HEAD = WIDTH // HEADS


def by_head(x: Tensor) -> Tensor:
    """[..., length, width] -> [..., heads, length, head_dim], head by head along the width."""
    return torch.stack(x.split(HEAD, dim=-1), dim=-3)


def softmax_of(q: Tensor, k: Tensor) -> Tensor:
    return (by_head(q) @ by_head(k).transpose(-1, -2) / HEAD**0.5).softmax(dim=-1)


def mixed(probabilities: Tensor, v: Tensor) -> Tensor:
    return torch.cat((probabilities @ by_head(v)).unbind(-3), dim=-1)


def with_attention(x: Tensor, w: dict[str, Tensor], inner: Any, beside: Any = None, mlp_offset: Any = 0.0) -> Tensor:
    """The block whose attention (n -> before projection) is `inner`; `beside` adds to the stream what it reads off."""
    op = plain(w)
    x = x + w["ls1.gamma"] * op("attn.proj", inner(op("norm1", x)))
    mlp = op("mlp.fc2", F.gelu(op("mlp.fc1", op("norm2", x))))
    return x + w["ls2.gamma"] * (mlp + mlp_offset) + (beside(x) if beside else 0)


def prefixed(backbone: Backbone, w: dict[str, Tensor]) -> Any:
    (p_k,), (p_v,) = of_block(backbone, "keys"), of_block(backbone, "values")

    def inner(n: Tensor) -> Tensor:
        q, k, v = plain(w)("attn.qkv", n).split(WIDTH, dim=-1)
        k, v = torch.cat([p_k.expand(2, -1, -1), k], dim=1), torch.cat([p_v.expand(2, -1, -1), v], dim=1)
        return mixed(softmax_of(q, k), v)

    return inner


def test_prefix_puts_keys_and_values_in_front() -> None:
    backbone, w = installed("prefix", num_tokens=4), weights()
    agree(run(backbone, tokens()), with_attention(tokens(), w, prefixed(backbone, w)))


def test_prefix_in_windows_has_no_position() -> None:
    """A Swin block with prefix, window by window, from the bare block's tensors."""
    backbone, bare = installed("prefix", "swin", num_tokens=3), make("swin")
    touched = backbone.sites("block")[1].module
    own = dict(touched.named_parameters())
    p_k, p_v = (next(t.detach() for n, t in own.items() if n.endswith(part)) for part in ("keys", "values"))
    plain_block: Any = bare.sites("block")[1].module
    attn = plain_block.attn
    heads = attn.num_heads

    def attend(x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = attn.qkv(x).split(x.shape[-1], dim=-1)
        k, v = (torch.cat([p.expand(len(x), -1, -1), t], dim=1) for p, t in ((p_k, k), (p_v, v)))
        q, k, v = (torch.stack(t.chunk(heads, dim=-1), dim=1) for t in (q, k, v))
        scores = q @ k.transpose(-1, -2) * (x.shape[-1] / heads) ** -0.5
        scores[..., 3:] += attn._get_rel_pos_bias()
        if mask is not None:
            scores[..., 3:] += mask.repeat(len(x) // len(mask), 1, 1).unsqueeze(1)
        return attn.proj(torch.cat((scores.softmax(-1) @ v).unbind(1), dim=-1))

    x = torch.randn(2, 8, 8, 24, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = touched(x)
        attn.forward = attend
        agree(found, plain_block(x))


def test_mam_is_a_prefix_and_a_scaled_parallel_adapter_on_the_normed_stream() -> None:
    backbone, w = installed("mam", num_tokens=4, bottleneck=5, scale=1.5), weights()
    (down, up), (down_bias, up_bias) = of_block(backbone, ".weight")[-2:], of_block(backbone, ".bias")[-2:]

    def branch(x: Tensor) -> Tensor:
        hidden = torch.relu(plain(w)("norm2", x) @ down.T + down_bias)
        return 1.5 * (hidden @ up.T + up_bias)

    agree(run(backbone, tokens()), with_attention(tokens(), w, prefixed(backbone, w), branch))


def shifted(backbone: Backbone, w: dict[str, Tensor], scale: float) -> Any:
    (down,), (b,) = of_block(backbone, "hooks.0.down.weight"), of_block(backbone, "hooks.0.down.bias")
    (up,), (c,) = of_block(backbone, "hooks.0.up.weight"), of_block(backbone, "hooks.0.up.bias")

    def inner(n: Tensor) -> Tensor:
        q, k, v = plain(w)("attn.qkv", n).split(WIDTH, dim=-1)
        more_k, more_v = (torch.tanh(n @ down.T + b) @ up.T + c).split(WIDTH, dim=-1)
        return attention(q, k + scale * more_k, v + scale * more_v)

    return inner


def test_patt_adds_a_projection_of_the_input_to_keys_and_values() -> None:
    backbone, w = installed("patt", bottleneck=5, scale=0.7), weights()
    agree(run(backbone, tokens()), with_attention(tokens(), w, shifted(backbone, w, 0.7)))


def test_patt_comes_ahead_of_a_norm_on_the_keys() -> None:
    backbone, bare = installed("patt", "vit_qknorm", bottleneck=5, scale=0.7), make("vit_qknorm")
    (down,), (b,) = of_block(backbone, "hooks.0.down.weight"), of_block(backbone, "hooks.0.down.bias")
    (up,), (c,) = of_block(backbone, "hooks.0.up.weight"), of_block(backbone, "hooks.0.up.bias")
    plain_block: Any = bare.net.blocks[LAYER]  # type: ignore[union-attr, index]

    def add(_: Any, arguments: tuple[Tensor], y: Tensor) -> Tensor:
        added = 0.7 * (torch.tanh(arguments[0] @ down.T + b) @ up.T + c)
        return y + F.pad(added, (WIDTH, 0))

    plain_block.attn.qkv.register_forward_hook(add)
    agree(run(backbone, tokens()), run(bare, tokens()))


def test_bapat_is_patt_and_adaptformer() -> None:
    options = {"bottleneck": 5, "scale": 0.7, "adapter_bottleneck": 6, "adapter_scale": 0.3}
    backbone, w = installed("bapat", **options), weights()
    both = [name for name, _ in backbone.trainable if f".{LAYER}." in name and "taps" in name]
    assert len(both) == 4
    own = {name.split("taps.0.")[1]: tensor.detach() for name, tensor in backbone.trainable if name in both}

    def branch(x: Tensor) -> Tensor:
        hidden = torch.relu(x @ own["down.weight"].T + own["down.bias"])
        return 0.3 * (hidden @ own["up.weight"].T + own["up.bias"])

    agree(run(backbone, tokens()), with_attention(tokens(), w, shifted(backbone, w, 0.7), branch))


def test_attnscale_scales_probabilities_and_offsets_both_halves() -> None:
    backbone, w = installed("attnscale"), weights()
    (alpha,) = of_block(backbone, "alpha")
    attn_offset, mlp_offset = of_block(backbone, "offset")
    w["attn.proj.bias"] = w["attn.proj.bias"] + attn_offset

    def inner(n: Tensor) -> Tensor:
        q, k, v = plain(w)("attn.qkv", n).split(WIDTH, dim=-1)
        return mixed(alpha * softmax_of(q, k), v)

    agree(run(backbone, tokens()), with_attention(tokens(), w, inner, mlp_offset=mlp_offset))


def test_attnscale_head_scales_the_probabilities_of_a_head() -> None:
    backbone, w = installed("attnscale_head"), weights()
    (scale,) = of_block(backbone, "scale")
    attn_offset, mlp_offset = of_block(backbone, "offset")
    w["attn.proj.bias"] = w["attn.proj.bias"] + attn_offset

    def inner(n: Tensor) -> Tensor:
        q, k, v = plain(w)("attn.qkv", n).split(WIDTH, dim=-1)
        return mixed(scale.view(HEADS, 1, 1) * softmax_of(q, k), v)

    agree(run(backbone, tokens()), with_attention(tokens(), w, inner, mlp_offset=mlp_offset))


@pytest.mark.parametrize("name", ["vit_cls", "vit_avg", "vit_layerscale", "vit_distilled", "vit_prenorm"])
def test_vqt_reads_every_block_and_changes_none(name: str) -> None:
    backbone, bare = installed("vqt", name, num_tokens=2), make(name)
    queries = [tensor.detach() for _, tensor in backbone.trainable]
    net: Any = bare.net
    with torch.no_grad():
        x, read = net.norm_pre(net._pos_embed(net.patch_embed(images()))), []
        for bare_block, query in zip(net.blocks, queries, strict=True):
            # masked as keys, the queries see the tokens and are seen by nobody
            length = x.shape[1]
            mask = torch.ones(length + 2, length + 2, dtype=torch.bool)
            mask[:, length:] = False
            together = bare_block(torch.cat([x, query.expand(4, -1, -1)], dim=1), attn_mask=mask)
            read.append(F.normalize(together[:, length:].flatten(1), dim=1))
            x = bare_block(x)
        pooled = bare(images())
        features = backbone(images())
        agree(features, torch.cat([F.normalize(pooled, dim=1), *read], dim=1))
        assert features.shape == (4, backbone.feature_dim)
        own: Any = backbone.net
        expected = net.forward_features(images())
        assert torch.equal(own.forward_features(images())[:, : expected.shape[1]], expected), "the tokens, bit for bit"


def test_vqt_keeps_nothing_of_the_token_path_for_the_backward_pass() -> None:
    backbone = installed("vqt", "vit_cls", num_tokens=1)
    lengths: list[int] = []

    def keep(saved: Tensor) -> Tensor:
        lengths.append(saved.shape[1] if saved.ndim == 3 and saved.shape[-1] == 4 * WIDTH else 1)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        backbone(images()).sum()
    assert set(lengths) == {1}, "hidden activations of the MLP are kept for the queries only"


SIZES = {"prompts": [2, 3, 1], "lora_ranks": [1, 4, 2], "adapter_widths": [2, 5, 1]}


def test_noah_joins_prompts_lora_and_a_sequential_adapter() -> None:
    backbone, w = installed("noah_subnet", "vit_cls", **SIZES), weights("vit_cls")
    (prompt,) = of_block(backbone, "tokens")
    (a,), (b,) = of_block(backbone, "deltas.0.down"), of_block(backbone, "deltas.0.up")
    (down, down_bias), (up, up_bias) = of_block(backbone, "taps.0.down"), of_block(backbone, "taps.0.up")
    assert prompt.shape == (1, 3, WIDTH) and a.shape == (4, WIDTH) and down.shape == (5, WIDTH)

    def op(name: str, x: Tensor) -> Tensor:
        y = plain(w)(name, x)
        if name == "attn.qkv":
            y = y + x @ a.T @ b.T
        if name == "mlp.fc2":
            hidden = y @ down.T + down_bias
            y = y + (hidden * torch.sigmoid(1.702 * hidden)) @ up.T + up_bias
        return y

    x = tokens()
    # the two behind the class token are the prompts of the block before
    agree(run(backbone, x), block(torch.cat([x[:, :1], prompt.expand(2, -1, -1), x[:, 3:]], dim=1), w, op))


def test_noah_keeps_the_prompts_of_a_block_where_the_next_has_none() -> None:
    """As the released blocks: prompts replace those of the block just before; without any there, they are added."""
    none = {"lora_ranks": [0, 0, 0], "adapter_widths": [0, 0, 0]}
    for sizes, seen in (([3, 0, 2], [3, 3, 5]), ([2, 3, 0], [2, 3, 3]), ([0, 2, 1], [0, 2, 1])):
        backbone = make("vit_cls")
        install(METHODS.get("noah_subnet")(prompts=sizes, **none), backbone)
        backbone.eval()
        lengths: list[int] = []
        for site in backbone.sites("attn"):
            site.module.register_forward_pre_hook(lambda _, inputs, into=lengths: into.append(inputs[0].shape[1] - 17))
        prompts = {int(n.split("blocks.")[1].split(".")[0]): t for n, t in backbone.trainable}
        net: Any = make("vit_cls").net
        x = net._pos_embed(net.patch_embed(images()))
        for layer, block_ in enumerate(net.blocks):
            if sizes[layer]:
                before = sizes[layer - 1] if layer else 0
                x = torch.cat([x[:, : x.shape[1] - before], prompts[layer].expand(len(x), -1, -1)], dim=1)
            x = block_(x)
        agree(backbone.net.forward_features(images()), net.norm(x)[:, :17])  # type: ignore[operator]
        assert lengths == seen


def test_noahs_adapter_stands_behind_stochastic_depth() -> None:
    backbone = installed("noah_subnet", "vit_cls", prompts=[0, 0, 0], lora_ranks=[0, 0, 0], adapter_widths=[2, 5, 1])
    net: Any = backbone.net
    half = net.blocks[LAYER].base
    (down, down_bias), (up, up_bias) = of_block(backbone, "taps.0.down"), of_block(backbone, "taps.0.up")
    half.drop_path1, half.drop_path2 = torch.nn.Identity(), Dropped()
    x = tokens()
    middle = x + half.attn(half.norm1(x))
    # what stochastic depth leaves of the MLP is nothing; the adapter then gives what its biases make of zero
    hidden = down_bias * torch.sigmoid(1.702 * down_bias)
    agree(run(backbone, x), middle + hidden @ up.T + up_bias)
    assert down.shape == (5, WIDTH)


class Dropped(torch.nn.Module):
    """Stochastic depth that drops every sample."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def test_noah_asks_for_lists_that_fit_the_depth() -> None:
    before = make("vit_cls")
    names = {name for name, _ in before.named_parameters()}
    for options in ({}, {"prompts": [1, 1, 1]}, {key: [1, 1] for key in SIZES}):
        with pytest.raises(NotApplicable, match=r"3; set method\.prompts"):
            install(METHODS.get("noah_subnet")(**options), before)
    assert {name for name, _ in before.named_parameters()} == names
    with pytest.raises(ConfigError, match="one number per block"):
        METHODS.get("noah_subnet")(prompts=[1, 1], lora_ranks=[1])
    without = make("vit_cls")
    install(METHODS.get("noah_subnet")(**{key: [0, 0, 0] for key in SIZES}), without)
    assert not without.trainable


def test_initial_values() -> None:
    prefix, patt, silent, vqt = make("vit_cls"), make("vit_cls"), make("vit_cls"), make("vit_cls")
    install(METHODS.get("prefix")(num_tokens=50), prefix)
    values = torch.cat([tensor.flatten() for _, tensor in prefix.trainable])
    assert abs(values.std() - 0.02) < 0.001 and abs(values.mean()) < 0.001
    install(METHODS.get("patt")(bottleneck=32, init="trunc_normal"), patt)
    assert all(not t.any() if n.endswith("bias") else abs(t.std() - 0.02) < 0.002 for n, t in patt.trainable)
    install(METHODS.get("patt")(zero_up=True), silent)
    agree(silent(images()), make("vit_cls")(images()))
    plain_start = make("vit_cls")
    install(METHODS.get("patt")(bottleneck=32), plain_start)
    # torch's linear layers: weights and biases from U(-1 / sqrt(in), 1 / sqrt(in))
    for name, tensor in plain_start.trainable:
        bound = (WIDTH if ".down." in name else 32) ** -0.5
        assert 0.8 * bound < tensor.abs().max() <= bound
    install(METHODS.get("vqt")(num_tokens=50), vqt)
    bound = (6 / (3 * 8 * 8 + 48)) ** 0.5
    assert all(0.95 * bound < tensor.abs().max() <= bound for _, tensor in vqt.trainable)
