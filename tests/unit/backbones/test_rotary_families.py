"""timm's Eva class: one layout for its many forms, and rotary embeddings under inserted tokens."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import timm
import torch
from timm.layers.pos_embed_sincos import RotaryEmbeddingDinoV3
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from peftbench.backbones import rotary
from peftbench.backbones.base import Backbone
from peftbench.backbones.build import from_timm
from peftbench.contracts.backbones import VIT, images, make, randomised
from peftbench.foundation.errors import NotApplicable
from peftbench.interventions import AttentionHook, Behind, InsertTokens, hook_attention, tap_block
from peftbench.methods.base import METHODS, install

ROTARY = ["eva_rope", "eva_split"]
# queries, keys and values apart; biases beside the map; no bias; two maps into a gated MLP; learned rotations; none
MODELS = [
    "eva02_base_patch14_224",
    "eva02_tiny_patch14_224",
    "vit_small_patch16_dinov3_qkvb",
    "vit_small_plus_patch16_dinov3",
    "vit_small_patch16_rope_mixed_224",
    "vit_pe_core_tiny_patch16_384",
    "eva_giant_patch14_224",
    "aimv2_large_patch14_224",
]


def timms(model: str, **options: Any) -> Any:
    return randomised(timm.create_model(model, num_classes=0, **(VIT | options)))


@torch.no_grad()
def features(net: Any) -> Tensor:
    pooled: Tensor = net.forward_head(net.forward_features(images()), pre_logits=True)
    return pooled


@pytest.mark.parametrize("model", MODELS)
def test_one_layout_computes_what_timm_computes(model: str) -> None:
    net = timms(model)
    for name, parameter in net.named_parameters():
        if name.endswith("_bias"):
            nn.init.normal_(parameter)
    expected = features(net)
    backbone = from_timm(net, 32)
    torch.testing.assert_close(backbone(images()), expected, rtol=1e-5, atol=1e-6)
    for site in backbone.sites("attn.qkv"):
        assert isinstance(site.module, nn.Linear) and site.shape.out_dim == 3 * 48
    gated = {site.shape.out_dim // site_2.shape.in_dim for site, site_2 in pairs(backbone)}
    assert gated == ({2} if hasattr(backbone.net.blocks[0].mlp, "gate_last") else {1})  # type: ignore[union-attr, index]


def pairs(backbone: Backbone) -> list[tuple[Any, Any]]:
    return list(zip(backbone.sites("mlp.fc1"), backbone.sites("mlp.fc2"), strict=True))


@pytest.mark.parametrize("model", MODELS[:7])
def test_no_wrapper_of_a_linear_map_is_passed_by(model: str) -> None:
    backbone = from_timm(timms(model), 32)
    called: list[str] = []
    for role in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
        for site in backbone.sites(role):
            site.wrap(lambda base, role=role: Behind(base, Told(called, role)))  # type: ignore[misc]
    backbone(images())
    assert {role: called.count(role) for role in called} == dict.fromkeys(
        ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"), 3
    )


class Told(nn.Module):
    def __init__(self, into: list[str], role: str) -> None:
        super().__init__()
        self.into, self.role = into, role

    def forward(self, x: Tensor) -> Tensor:
        self.into.append(self.role)
        return torch.zeros_like(x)


@pytest.mark.parametrize("name", ROTARY)
def test_an_inserted_token_does_not_turn_and_patches_turn_as_before(name: str) -> None:
    backbone, net = make(name), copy.deepcopy(make(name).net)
    prefix = backbone.shape.num_prefix_tokens
    first: Any = backbone.sites("block")[0]
    inserted = first.wrap(lambda block: InsertTokens(block, 2, 48, 8, prefix, 0.0, strip=False))
    tokens = inserted.tokens.detach()
    # timm with as many more prefix tokens
    for block in net.blocks:  # type: ignore[union-attr]
        block.attn._forward_pre_hooks.clear()
        block.attn.num_prefix_tokens += 2
    with torch.no_grad():
        x, rope = net._pos_embed(net.patch_embed(images()))  # type: ignore[operator]
        x = net.norm_pre(torch.cat([x[:, :prefix], tokens.expand(4, -1, -1), x[:, prefix:]], dim=1))  # type: ignore[operator]
        for block in net.blocks:  # type: ignore[union-attr]
            x = block(x, rope=rope)
        found = backbone.net.forward_features(images())  # type: ignore[operator]
        torch.testing.assert_close(found, net.norm(x), rtol=1e-5, atol=1e-5)  # type: ignore[operator]


@pytest.mark.parametrize("name", ROTARY)
def test_the_block_and_the_attention_written_out_are_timms(name: str) -> None:
    bare, written = make(name), make(name)
    for site in written.sites("attn"):
        site.wrap(lambda attn: hook_attention(attn, [AttentionHook()]))
    for site in written.sites("block"):
        site.wrap(lambda block: tap_block(block, []))
    with torch.no_grad():
        torch.testing.assert_close(written(images()), bare(images()), rtol=1e-5, atol=1e-6)


def test_a_further_query_has_no_place_and_the_tokens_stay_bit_for_bit() -> None:
    backbone, bare = make("eva_rope"), make("eva_rope")
    install(METHODS.get("vqt")(num_tokens=2), backbone)
    with torch.no_grad():
        expected = bare.net.forward_features(images())  # type: ignore[operator]
        found = backbone.eval().net.forward_features(images())  # type: ignore[operator]
    torch.testing.assert_close(found[:, : expected.shape[1]], expected, rtol=1e-5, atol=1e-5)


def test_blocks_that_norm_behind_their_halves_are_refused() -> None:
    with torch.device("meta"):
        net = timm.create_model("eva02_enormous_patch14_clip_224", num_classes=0, depth=1)
    with pytest.raises(NotApplicable, match="EvaBlockPostNorm"):
        from_timm(net)


def test_registers_are_not_pooled_where_the_class_token_is() -> None:
    assert make("eva_split").num_pooled == 1 and make("eva_rope").num_pooled is None
    assert from_timm(timms("vit_small_patch16_dinov3", global_pool="token"), 32).num_pooled == 1


def test_a_stem_of_convolutions_is_no_embedding_to_act_on_but_has_a_patch_size() -> None:
    with torch.device("meta"):
        backbone = from_timm(timm.create_model("vit_base_mci_224", num_classes=0, depth=2))
    assert backbone.shape.patch_size == 16 and not backbone.shape.at("embed")
    with pytest.raises(NotApplicable, match="no 'embed'"):
        backbone.sites("embed")


@pytest.mark.parametrize("method", ["lst", "hst"])
def test_a_network_with_gated_mlps_and_norms_without_bias_takes_side_networks(method: str) -> None:
    backbone = from_timm(timms("aimv2_large_patch14_224"), 32)
    install(METHODS.get(method)(), backbone)
    assert backbone.train()(images()).shape[0] == 4


def _vitamin() -> Any:
    return randomised(timm.create_model("vitamin_small_224", num_classes=0, img_size=64, depth=2))


def test_a_gated_mlp_with_its_norm_ahead_is_one_map_that_no_wrapper_is_passed_by() -> None:
    net = _vitamin()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = net.forward_head(net.forward_features(images), pre_logits=True)
    backbone = from_timm(net, 64)
    torch.testing.assert_close(backbone(images), expected, rtol=1e-5, atol=1e-6)
    assert all(site.shape.out_dim == 2 * site_2.shape.in_dim for site, site_2 in pairs(backbone))
    called: list[str] = []
    for site in backbone.sites("mlp.fc1"):
        site.wrap(lambda base: Behind(base, Told(called, "mlp.fc1")))
    backbone(images)
    assert called == ["mlp.fc1"] * 2


@pytest.mark.parametrize("method", ["bitfit", "repadapter", "glora", "fact_tt"])
def test_what_acts_on_the_first_map_of_an_mlp_acts_on_both_inputs_of_a_gate_and_folds(method: str) -> None:
    backbone, images = from_timm(_vitamin(), 64), torch.randn(2, 3, 64, 64)
    installed = METHODS.get(method)()
    install(installed, backbone)
    with torch.no_grad():
        for _, tensor in backbone.trainable:
            tensor.add_(0.05 * torch.randn_like(tensor))
    before = backbone.eval()(images)
    mlp: Any = backbone.net.blocks[0].mlp  # type: ignore[union-attr, index]
    assert any(tensor.requires_grad for tensor in mlp.fc1.parameters()) or backbone.get_submodule("shared")
    installed.merge(backbone)
    torch.testing.assert_close(backbone(images), before, rtol=1e-4, atol=1e-4)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The embeddings whose angles are made, in order."""
    found: list[Any] = []
    plain = RotaryEmbeddingDinoV3.get_embed

    def get_embed(rope: Any, *arguments: Any, **options: Any) -> Tensor:
        found.append(rope)
        angles: Tensor = plain(rope, *arguments, **options)
        return angles

    monkeypatch.setattr(RotaryEmbeddingDinoV3, "get_embed", get_embed)
    return found


def test_angles_are_made_once_for_a_network_and_for_a_copy_of_it(made: list[Any]) -> None:
    backbone = make("eva_rope")
    with torch.inference_mode():
        expected = backbone(images())
    backbone.requires_grad_().train()
    backbone(images()).sum().backward()
    assert made == [backbone.net.rope]
    other = copy.deepcopy(backbone).double().eval()
    twice = other(images().double())
    assert made == [backbone.net.rope, other.net.rope]
    torch.testing.assert_close(twice.float(), expected, rtol=1e-5, atol=1e-6)


def test_angles_follow_what_they_are_made_from(made: list[Any]) -> None:
    backbone = make("eva_rope")
    before = backbone(images())
    backbone.net.rope.periods.mul_(2)
    assert len(made) == 1 and not torch.equal(backbone(images()), before) and len(made) == 2
    for side in range(2, 2 + 2 * rotary._MOST_SIZES):
        backbone.net(torch.zeros(1, 3, 16 * side, 16))
    assert len(backbone.net.rope.kept) == rotary._MOST_SIZES


def test_a_grid_that_moves_in_training_is_drawn_in_every_pass(made: list[Any]) -> None:
    backbone = from_timm(timms("vit_small_patch16_dinov3", rope_rescale_coords=2.0), 32)
    backbone.train()
    outputs = [backbone(images()) for _ in range(2)]
    assert len(made) == 2 and not torch.equal(*outputs)
    backbone.eval()
    assert torch.equal(backbone(images()), backbone(images())) and len(made) == 3


def test_a_network_with_kept_angles_goes_through_a_file() -> None:
    backbone = make("eva_rope")
    expected = backbone(images())
    again = pickle.loads(pickle.dumps(backbone))
    assert again.net.rope.kept == {} and torch.equal(again(images()), expected)


def test_a_network_with_kept_angles_is_traced_and_runs_on_as_before() -> None:
    backbone = make("eva_rope")
    with FakeTensorMode() as mode:
        torch.func.functional_call(
            backbone, {name: mode.from_tensor(tensor) for name, tensor in tensors_of(backbone).items()}, images()
        )
    expected = backbone(images())
    exported = torch.export.export(backbone, (images(),)).module()
    torch.testing.assert_close(exported(images()), expected)
    assert torch.equal(backbone(images()), expected)
    assert all(type(angles) is Tensor for angles in backbone.net.rope.kept.values())


def tensors_of(net: nn.Module) -> dict[str, Tensor]:
    return dict([*net.named_parameters(), *net.named_buffers()])


def test_a_network_of_one_size_takes_another_size_as_timm_gives_it() -> None:
    net = timm.create_model("eva02_tiny_patch14_224", num_classes=0, img_size=28)
    backbone = from_timm(net, 28)
    small, large = torch.randn(1, 3, 28, 28), torch.randn(1, 3, 56, 56)
    other = copy.deepcopy(backbone)
    backbone(small)
    for each in (backbone, other):
        each.net.set_input_size(56)
    assert torch.equal(backbone.net(large), other.net(large))
