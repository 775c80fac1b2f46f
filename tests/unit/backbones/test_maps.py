from __future__ import annotations

import pytest
import torch

from peftbench.backbones.maps import feature_maps
from peftbench.contracts.backbones import BUILDERS
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
    backbone = BUILDERS["vit_cls"]()
    install(METHODS.get("e3va")(), backbone)
    with torch.no_grad(), pytest.raises(ValueError, match="block 1 gives"):
        feature_maps(backbone, (torch.randn(2, 3, 32, 32),), (1,))
