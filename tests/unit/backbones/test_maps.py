from __future__ import annotations

import pytest
import torch
from torch import nn

from peftbench.backbones.maps import feature_maps, taps_of
from peftbench.contracts.backbones import BUILDERS, TWELVE_BLOCKS, images, installed, make
from peftbench.contracts.test_methods import nudge
from peftbench.foundation.errors import NotApplicable
from peftbench.methods.base import METHODS, install


@pytest.mark.parametrize("family", ["vit_cls", "vit_registers", "vit_prenorm"])
def test_maps_of_a_transformer_are_timms_normed_intermediate_layers(family: str) -> None:
    backbone = BUILDERS[family]()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        ours = feature_maps(backbone, (images,), (0, 2))
        theirs = backbone.net.get_intermediate_layers(images, n=(0, 2), reshape=True, norm=True)  # type: ignore[operator]
    for mine, expected in zip(ours, theirs, strict=True):
        assert mine.shape == (2, 48, 4, 4)
        torch.testing.assert_close(mine, expected, rtol=0, atol=0)


@pytest.mark.parametrize("family", ["swin", "convnext"])
def test_maps_of_stages_have_their_stages_channels(family: str) -> None:
    backbone = BUILDERS[family]()
    with torch.no_grad():
        maps = feature_maps(backbone, (torch.randn(1, 3, 32, 32),), (0, len(backbone.sites("block")) - 1))
    shapes = [site.shape.out_dim for site in backbone.sites("block")]
    assert [item.shape[1] for item in maps] == [shapes[0], shapes[-1]]
    assert maps[0].shape[2] > maps[1].shape[2]


def test_maps_follow_the_method_and_leave_no_hook_behind() -> None:
    """Prompts stand ahead of the patches, so the last tokens are the patches' all the same."""
    backbone = BUILDERS["vit_cls"]()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = feature_maps(backbone, (images,), (1,))[0]
        install(METHODS.get("vpt_shallow")(), backbone)
        after = feature_maps(backbone.eval(), (images,), (1,))[0]
        expected = backbone.net.forward_features(images)  # type: ignore[operator]
        last = feature_maps(backbone, (images,), (2,))[0]
    assert after.shape == before.shape and not torch.equal(after, before)
    torch.testing.assert_close(last.flatten(2).transpose(1, 2), expected[:, -16:], rtol=0, atol=0)
    assert not any(module._forward_hooks for module in backbone.modules())


def test_what_is_no_map_is_refused() -> None:
    pixels = torch.randn(2, 3, 32, 32)
    backbone = BUILDERS["vit_cls"]()
    backbone.sites("block")[1].wrap(lambda block: nn.Sequential(block, nn.Linear(48, 7), nn.Linear(7, 48)))
    backbone.sites("block")[2].wrap(lambda block: nn.Sequential(block, nn.Linear(48, 7)))
    with torch.no_grad(), pytest.raises(ValueError, match=r"block 2 gives \[2, 17, 7\], which is no map of 48"):
        feature_maps(backbone, (pixels,), (1, 2))
    queries = BUILDERS["vit_cls"]()
    install(METHODS.get("vqt")(), queries)
    with torch.no_grad(), pytest.raises(NotApplicable, match="its queries"):
        feature_maps(queries, (pixels,), (1,))


@pytest.mark.parametrize(("method", "joined"), [("lst", False), ("dtl", False), ("last", True), ("e3va", True)])
def test_maps_of_side_networks_are_the_stream_or_what_the_method_adds_to_it(method: str, joined: bool) -> None:
    backbone, bare = make("vit_cls"), make("vit_cls")
    install(METHODS.get(method)(), backbone)
    nudge(backbone)
    with torch.no_grad():
        early, last = feature_maps(backbone, (images(2),), (0, 2))
        plain_early, plain_last = feature_maps(bare, (images(2),), (0, 2))
        features = backbone.net.forward_features(images(2))  # type: ignore[operator]
    if method != "e3va":  # whose final norm trains
        assert torch.allclose(early, plain_early, atol=1e-5) != joined
    assert not torch.allclose(last, plain_last, atol=1e-3)
    if method != "dtl":  # whose last token is the mean
        torch.testing.assert_close(last.flatten(2).transpose(1, 2), features[:, -16:], rtol=0, atol=0)


def test_the_highway_joins_the_stream_at_the_end_of_a_swin_stage() -> None:
    """Stacked as one batch on its way to the next stage, it is added for the map."""
    backbone = BUILDERS["swin"]()
    install(METHODS.get("e3va")(), backbone)
    seen = []
    handle = backbone.sites("block")[1].module.register_forward_hook(lambda m, i, output: seen.append(output))
    with torch.no_grad():
        [joined] = feature_maps(backbone, (images(3),), (1,))
    handle.remove()
    stream, highway = seen[0].chunk(2)
    assert len(joined) == 3
    torch.testing.assert_close(joined, (stream + highway).movedim(-1, 1), rtol=0, atol=0)


def test_a_pyramid_of_its_own_gives_its_stages() -> None:
    backbone = TWELVE_BLOCKS["vit_twelve"]()
    install(METHODS.get("hst")(), backbone)
    taps = taps_of(backbone, 4)
    with torch.no_grad():
        maps = feature_maps(backbone.eval(), (images(2),), taps.layers)
    assert [m.shape[1] for m in maps] == [*taps.widths] == [32, 48, 64, 72] and not taps.flat
    assert [m.shape[2] for m in maps] == [8, 4, 2, 1]


@pytest.mark.parametrize(("family", "norm"), [("swin", "norm"), ("convnext", "head.norm"), ("vit_avg", "fc_norm")])
def test_the_last_map_passes_the_final_norm_of_its_family(family: str, norm: str) -> None:
    backbone = BUILDERS[family]()
    last = backbone.sites("block")[-1]
    seen = []
    with torch.no_grad():
        handle = last.module.register_forward_hook(lambda m, i, output: seen.append(output))
        [found] = feature_maps(backbone, (images(2),), (last.layer,))
        handle.remove()
        normed = backbone.net.get_submodule(norm)(seen[0])
    expected = normed.movedim(last.channel_dim, 1) if normed.ndim == 4 else normed.transpose(1, 2).unflatten(2, (4, 4))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("family", ["swin", "convnext"])
@torch.no_grad()
def test_maps_behind_merging_are_what_the_next_stage_reads(family: str) -> None:
    backbone = BUILDERS[family]()
    taps = taps_of(backbone, 4, merged=True)
    blocks, merges = backbone.sites("block"), backbone.sites("merge")
    assert taps.merged and taps.widths == (*(merge.shape.out_dim for merge in merges), blocks[-1].shape.out_dim)
    seen = []
    for layer in taps.layers[:-1]:
        blocks[layer + 1].module.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    maps = feature_maps(backbone, (images(2),), taps.layers, merged=True)
    for found, given in zip(maps, seen, strict=False):
        assert torch.equal(found, given if family == "convnext" else given.permute(0, 3, 1, 2))
    assert torch.equal(maps[-1], feature_maps(backbone, (images(2),), taps.layers)[-1])
    with pytest.raises(NotApplicable, match="a vit has no merging steps"):
        taps_of(make("vit_cls"), 4, merged=True)


@torch.no_grad()
def test_maps_behind_merging_are_those_of_each_task() -> None:
    backbone, bare = installed(METHODS.get("mtlora")(), "swin_of_tasks").eval(), make("swin")
    layers = taps_of(bare, 4).layers
    maps, plain = (feature_maps(net, (images(2),), layers, merged=True) for net in (backbone, bare))
    for found, expected in zip(maps, plain, strict=True):
        torch.testing.assert_close(found, expected.repeat(2, 1, 1, 1))
