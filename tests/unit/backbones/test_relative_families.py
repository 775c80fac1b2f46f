"""BEiT and timm's ViT-RelPos: relative positions under inserted tokens, one layout, and the same function as timm's."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from peftbench.backbones.build import from_timm
from peftbench.contracts.backbones import VIT, images, make, randomised
from peftbench.foundation.errors import NotApplicable
from peftbench.interventions import AttentionHook, InsertTokens, hook_attention, tap_block
from peftbench.methods.base import METHODS, install


@torch.no_grad()
def timms(model: str, **options: Any) -> Any:
    net = randomised(timm.create_model(model, num_classes=0, **(VIT | options)))
    for name, parameter in net.named_parameters():
        if name.endswith("_bias"):
            nn.init.normal_(parameter)
    return net


@torch.no_grad()
def features(net: Any) -> Tensor:
    pooled: Tensor = net.forward_head(net.forward_features(images()), pre_logits=True)
    return pooled


BEIT, RELPOS = "beitv2_base_patch16_224", "vit_relpos_small_patch16_224"
# positions of ViT-RelPos from coordinates or from tables, of each block or shared, with a class token or without
OF_RELPOS: list[dict[str, Any]] = [
    {},
    {"class_token": True, "global_pool": "token", "qk_norm": True},
    {"rel_pos_type": "bias", "class_token": True},
    {"shared_rel_pos": True, "rel_pos_type": "mlp_swin"},
]


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (BEIT, {}),
        (BEIT, {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True, "use_abs_pos_emb": True}),
        (BEIT, {"use_shared_rel_pos_bias": True, "init_values": None, "global_pool": "token"}),
        (BEIT, {"use_rel_pos_bias": False, "use_abs_pos_emb": True, "qkv_bias": False}),
        *((RELPOS, options) for options in OF_RELPOS),
    ],
)
def test_one_layout_computes_what_timm_computes(model: str, options: dict[str, Any]) -> None:
    net = timms(model, **options)
    expected = features(net)
    backbone = from_timm(net, 32)
    torch.testing.assert_close(backbone(images()), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(backbone.train()(images()), backbone.eval()(images())), "nothing is dropped in training"
    written = copy.deepcopy(backbone)
    for site in written.sites("attn"):
        site.wrap(lambda attn: hook_attention(attn, [AttentionHook()]))
    for site in written.sites("block"):
        site.wrap(lambda block: tap_block(block, []))
    torch.testing.assert_close(written(images()), expected, rtol=1e-5, atol=1e-6)


def test_an_inserted_token_has_no_position_and_patches_keep_theirs() -> None:
    backbone, net = make("beit"), timms("beit_base_patch16_224")
    net.load_state_dict({**net.state_dict(), **_apart(make("beit").net.state_dict())})
    first: Any = backbone.sites("block")[0]
    inserted = first.wrap(lambda block: InsertTokens(block, 2, 48, 8, 1, 0.0, strip=False))
    length = 1 + 16 + 2
    patches = [0, *range(3, length)]
    with torch.no_grad():
        x = net.patch_embed(images())
        x = torch.cat([net.cls_token.expand(4, -1, -1), inserted.tokens.expand(4, -1, -1), x], dim=1)
        for block in net.blocks:
            attn = block.attn
            q, k, v = (
                part.unflatten(2, (3, -1)).transpose(1, 2)
                for part in torch.nn.functional.linear(
                    block.norm1(x), attn.qkv.weight, torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])
                ).chunk(3, dim=-1)
            )
            scores = q @ k.transpose(-1, -2) / 4
            bias = torch.zeros(1, 3, length, length)
            bias[:, :, torch.tensor(patches)[:, None], torch.tensor(patches)] = attn._get_rel_pos_bias()
            mixed = ((scores + bias).softmax(-1) @ v).transpose(1, 2).flatten(2)
            x = x + block.gamma_1 * attn.proj(mixed)
            x = x + block.gamma_2 * block.mlp(block.norm2(x))
        found = backbone.net.forward_features(images())  # type: ignore[operator]
    torch.testing.assert_close(found, net.norm(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", OF_RELPOS)
def test_tokens_in_a_relative_position_vit_have_no_position_and_patches_keep_theirs(options: dict[str, Any]) -> None:
    backbone = from_timm(timms(RELPOS, **options), 32)
    net: Any = copy.deepcopy(backbone.net)
    prefix, first = backbone.shape.num_prefix_tokens, backbone.sites("block")[0]
    inserted: Any = first.wrap(lambda block: InsertTokens(block, 2, 48, 8, prefix, 0.0, strip=False))
    length = prefix + 2 + 16
    placed = torch.tensor([*range(prefix), *range(prefix + 2, length)])
    with torch.no_grad():
        x = net.patch_embed(images())
        parts = [net.cls_token.expand(4, -1, -1)] if prefix else []
        x = torch.cat([*parts, inserted.tokens.expand(4, -1, -1), x], dim=1)
        for block in net.blocks:
            attn, bias = block.attn, torch.zeros(1, 3, length, length)
            bias[:, :, placed[:, None], placed] = (net.shared_rel_pos or attn.rel_pos).get_bias()
            parts = [part.unflatten(2, (3, -1)).transpose(1, 2) for part in attn.qkv(block.norm1(x)).chunk(3, dim=-1)]
            scores = attn.q_norm(parts[0]) @ attn.k_norm(parts[1]).transpose(-1, -2) / 4
            x = x + block.ls1(attn.proj(((scores + bias).softmax(-1) @ parts[2]).transpose(1, 2).flatten(2)))
            x = x + block.ls2(block.mlp(block.norm2(x)))
        found = backbone.net.forward_features(images())  # type: ignore[operator]
    torch.testing.assert_close(found, net.norm(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", OF_RELPOS)
def test_positions_without_a_gradient_are_the_declared_ones(options: dict[str, Any]) -> None:
    backbone = from_timm(timms(RELPOS, **options), 32)
    full = METHODS.get("full")()
    install(full, backbone)
    backbone.double()(images().double()).square().sum().backward()
    inert, positions = full.inert(backbone), [(n, t) for n, t in backbone.trainable if "rel_pos" in n]
    assert positions
    for name, tensor in positions:
        assert tensor.grad is not None
        silent, declared = tensor.grad.abs() < 1e-12, torch.zeros_like(tensor, dtype=torch.bool)
        if name in inert:
            declared[inert[name]] = True
        assert silent[declared].all(), name
        # units of the rectifier may be off for all coordinates
        assert declared.all() or not silent[~declared].all(), name
        assert "mlp" in name or not silent[~declared].any(), name


def _apart(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Biases of one map as timm has them."""
    found = {}
    for name, tensor in state.items():
        if name.endswith("attn.qkv.bias"):
            of_q, _, of_v = tensor.chunk(3)
            found |= {name.replace("qkv.bias", "q_bias"): of_q, name.replace("qkv.bias", "v_bias"): of_v}
        else:
            found[name] = tensor
    return found


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("swinv2_tiny_window8_256", "norms stand behind"),
        ("hiera_tiny_224", "pool queries"),
        ("vit_relpos_small_patch16_rpn_224", "not pre-norm"),
    ],
)
def test_relatives_that_methods_cannot_act_on_say_why(model: str, why: str) -> None:
    with torch.device("meta"):
        net = timm.create_model(model, num_classes=0)
    with pytest.raises(NotApplicable, match=why):
        from_timm(net)
