"""Backbones: sites, shapes, features and the errors of building one."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from peftbench.backbones.base import Backbone, unfreeze
from peftbench.backbones.build import build_backbone, from_timm
from peftbench.backbones.options import BackboneSpec
from peftbench.contracts.backbones import BUILDERS, images, make
from peftbench.foundation.errors import ConfigError, NotApplicable

every_backbone = pytest.mark.parametrize("name", BUILDERS)


def tiny(**options: object) -> BackboneSpec:
    return BackboneSpec(**({"model": "vit_micro_patch4_32", "weights": "none"} | options))  # type: ignore[arg-type]


@every_backbone
def test_features_are_what_timm_gives_its_classifier(name: str) -> None:
    backbone = make(name)
    net = backbone.net
    with torch.no_grad():
        expected = net.forward_head(net.forward_features(images()), pre_logits=True)  # type: ignore[operator]
        features = backbone(images())
    assert torch.equal(features, expected)
    assert features.shape == (4, backbone.feature_dim)


@every_backbone
def test_every_tensor_is_frozen_and_listed_once(name: str) -> None:
    backbone = make(name)
    assert backbone.trainable == []
    names = [tensor_name for tensor_name, _ in backbone.named_parameters(remove_duplicate=False)]
    assert len(names) == len(list(backbone.parameters())) == len(set(names))
    assert backbone.shape.num_parameters == sum(parameter.numel() for parameter in backbone.net.parameters())


@every_backbone
def test_sites_state_the_widths_of_what_passes_through_them(name: str) -> None:
    backbone = make(name)
    seen: dict[int, tuple[int, int]] = {}
    hooks = [
        site.module.register_forward_hook(
            lambda _, inputs, output, key=number, dim=site.channel_dim: seen.__setitem__(
                key, (inputs[0].shape[dim], output.shape[dim])
            )
        )
        for number, site in enumerate(backbone.all_sites)
    ]
    with torch.no_grad():
        backbone(images(1))
    for hook in hooks:
        hook.remove()
    assert set(seen) == set(range(len(backbone.all_sites))), "a site the forward pass does not go through"
    for number, site in enumerate(backbone.all_sites):
        assert seen[number][1] == site.shape.out_dim, site.shape
        if isinstance(site.module, nn.Linear):
            assert seen[number][0] == site.shape.in_dim, site.shape
        assert site.shape.has_bias == (getattr(site.module, "bias", None) is not None)


@every_backbone
def test_sites_reach_every_norm_and_linear_outside_attention_internals(name: str) -> None:
    backbone = make(name)
    sites = {id(site.module) for site in backbone.all_sites}
    kinds = (nn.Linear, nn.Conv2d, nn.LayerNorm)
    missed = [n for n, m in backbone.net.named_modules() if isinstance(m, kinds) and id(m) not in sites]
    assert [n for n in missed if not n.endswith(("q_norm", "k_norm"))] == []


def test_roles_of_a_plain_vit_in_order() -> None:
    backbone = make("vit_cls")
    assert [site.layer for site in backbone.sites("attn.qkv")] == [0, 1, 2]
    assert [site.layer for site in backbone.sites("mlp.fc1", layers=(2, 0))] == [0, 2]
    assert [site.shape.role for site in backbone.sites("norm")] == ["norm.1", "norm.2"] * 3 + ["norm.final"]
    block = backbone.net.blocks[1]  # type: ignore[index]
    found = {role: backbone.sites(role, layers=[1])[0].module for role in ("block", "attn", "attn.proj", "mlp.fc2")}
    assert found["block"] is block and found["attn"] is block.attn
    assert found["attn.proj"] is block.attn.proj and found["mlp.fc2"] is block.mlp.fc2


@pytest.mark.parametrize(
    ("name", "prefix", "grid"), [("vit_avg", 0, 4), ("vit_registers", 3, 4), ("vit_distilled", 2, 4), ("swin", 0, 8)]
)
def test_shape_counts_prefix_tokens_and_patches(name: str, prefix: int, grid: int) -> None:
    shape = make(name).shape
    assert (shape.num_prefix_tokens, shape.grid, shape.num_patches) == (prefix, (grid, grid), grid * grid)


def test_layers_of_a_hierarchical_family_are_numbered_through_the_stages() -> None:
    swin = make("swin")
    assert [(site.layer, site.shape.out_dim) for site in swin.sites("block")] == [(0, 24), (1, 24), (2, 48)]
    assert [(site.in_dim, site.out_dim) for site in swin.shape.at("merge")] == [(96, 48)]


def test_a_missing_role_names_the_family_and_what_it_has() -> None:
    with pytest.raises(NotApplicable, match=r"convnext has no 'attn\.qkv'; it has .*mlp\.fc1"):
        make("convnext").sites("attn.qkv")


class Doubled(nn.Module):
    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        doubled: torch.Tensor = 2 * self.base(x)
        return doubled


def test_an_inner_site_stays_reachable_after_an_outer_one_is_wrapped() -> None:
    backbone = make("vit_cls")
    outer, inner = backbone.sites("mlp", layers=[0])[0], backbone.sites("mlp.fc1", layers=[0])[0]
    mlp, fc1 = outer.module, inner.module
    outer.wrap(Doubled)
    inner.wrap(Doubled)
    assert isinstance(outer.module, Doubled) and outer.module.base is mlp
    assert isinstance(inner.module, Doubled) and inner.module.base is fc1
    x = torch.randn(1, 2, 48)
    expected = 2 * mlp.fc2(nn.functional.gelu(2 * fc1(x)))  # type: ignore[operator]
    torch.testing.assert_close(backbone.net.blocks[0].mlp(x), expected)  # type: ignore[index, union-attr, operator]


def test_unfreeze_takes_objects_and_freeze_takes_all_back() -> None:
    backbone = make("vit_cls")
    norm = backbone.sites("norm.final")[0].module
    unfreeze(norm, backbone.net.cls_token)  # type: ignore[arg-type]
    assert {name for name, _ in backbone.trainable} == {"net.norm.weight", "net.norm.bias", "net.cls_token"}
    backbone.freeze()
    assert backbone.trainable == []


def test_an_unsupported_family_says_which_are_supported() -> None:
    with pytest.raises(NotApplicable, match="ResNet is not a supported family; supported: VisionTransformer"):
        from_timm(timm.create_model("resnet10t", num_classes=0))


def test_blocks_that_are_not_pre_norm_are_refused() -> None:
    net = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, depth=1, block_fn=timm.models.vision_transformer.ResPostBlock
    )
    with pytest.raises(NotApplicable, match="ResPostBlock"):
        from_timm(net)


def test_input_spec_comes_from_the_model_and_the_chosen_size() -> None:
    spec = build_backbone(tiny(img_size=48)).input_spec
    assert (spec.size, spec.interpolation) == (48, "bicubic")
    assert spec.mean == (0.4914, 0.4822, 0.4465) and spec.std == (0.2470, 0.2435, 0.2616)
    assert build_backbone(tiny()).input_spec.size == 32


def test_building_repeats_itself_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, second = build_backbone(tiny()), build_backbone(tiny())
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert isinstance(first, Backbone) and first.device == torch.device("cpu")


def test_stochastic_depth_rises_with_the_layer() -> None:
    blocks = build_backbone(tiny(), drop_path=0.3).net.blocks
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in blocks]  # type: ignore[union-attr]
    assert rates == pytest.approx([0, 0.06, 0.12, 0.18, 0.24, 0.3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"model": "vit_micro_patch4_33"},
            "'vit_micro_patch4_33' is not a timm model; did you mean 'vit_micro_patch4_32'",
        ),
        ({"model": "vit_micro_patch4_32", "img_size": 2}, "backbone.img_size must be at least 4, got 2"),
        ({"img_size": 30}, "backbone.img_size=30 is not a multiple of vit_micro_patch4_32's patch size 4; try 28"),
        ({"model": "vit_tiny_patch16_224", "img_size": 8}, "patch size 16; try 16"),
        ({"weights": "checkpoint"}, "backbone.checkpoint must name a file"),
        ({"weights": "imagenet"}, "backbone.weights cannot be 'imagenet'"),
    ],
)
def test_a_wrong_option_is_one_clear_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_backbone(tiny(**options))
    assert len(caught.value.problems) == 1 and message in caught.value.problems[0]
    assert "\n" not in str(caught.value)


def test_an_image_too_small_for_all_stages_of_a_convnext_is_named() -> None:
    with pytest.raises(ConfigError, match="img_size=16 is too small for convnext_atto, which divides it by 32; try 32"):
        build_backbone(tiny(model="convnext_atto", img_size=16))
    assert build_backbone(tiny(model="convnext_atto", img_size=32)).input_spec.size == 32
