"""Trainable parameters of the side networks on ViT-B/16 at 224 px, without the classifier."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch

from peftbench.backbones.base import Backbone
from peftbench.backbones.build import from_timm
from peftbench.methods.base import METHODS, install
from tests.golden.counting import Count

COUNTS: list[tuple[str, dict[str, Any], int]] = [
    ("dtl", {}, 36_864),
    ("dtl", {"untouched": 0.75}, 36_864),
    ("dtl_plus", {}, 43_776),
    ("dtl_plus", {"kernel_size": 4}, 49_152),
    ("dtl_plus", {"kernel_size": 5}, 56_064),
    ("lst", {}, 2_374_284),
    ("last", {}, 608_256),
    ("hst", {}, 764_840),
    ("toast", {}, 14_156_544),
    ("toast", {"lite": True}, 738_048),
    # the released module's 2,622,866 without the 12 1536 + 37 that nothing reads
    ("synqt", {"num_tokens": 1}, 2_604_397),
    ("synqt", {}, 2_604_397 + 15 * 9_216),
    # by hand: 24 adapters of two branches 2 * 8 * (768 + 384) + 64 and biases 384 + 768, and the final norm
    ("e3va", {}, 24 * 38_144 + 1_536),
    ("e3va", {"num_branches": 1, "rank": 4}, 24 * (8 * 1152 + 16 + 1152) + 1_536),
]


@pytest.mark.parametrize(("name", "options", "count"), COUNTS, ids=str)
def test_count_on_vit_b16(count_on_vit_b16: Count, name: str, options: dict[str, Any], count: int) -> None:
    assert count_on_vit_b16(name, options) == count


def test_stages_of_swin_that_are_never_written_to_have_no_side_network() -> None:
    """Swin-B, 24 blocks of widths 128 (2), 256 (2), 512 (18), 1024 (2): written to from block 12, so blocks 4 to 23."""
    with torch.device("meta"):
        backbone = from_timm(timm.create_model("swin_base_patch4_window7_224", pretrained=False, num_classes=0))
    install(METHODS.get("dtl")(rank=4), backbone)
    assert sum(tensor.numel() for _, tensor in backbone.trainable) == 8 * (18 * 512 + 2 * 1024)


@pytest.mark.parametrize(("model", "width", "published"), [("base", 1024, 1_197_312), ("large", 1536, 1_792_896)])
def test_the_highway_has_the_published_sizes_on_swin(model: str, width: int, published: int) -> None:
    """1.20 M and 1.79 M; the norms that train in front of the paper's pyramid are not counted there."""
    with torch.device("meta"):
        backbone = from_timm(timm.create_model(f"swin_{model}_patch4_window7_224", pretrained=False, num_classes=0))
    install(METHODS.get("e3va")(), backbone)
    assert sum(tensor.numel() for _, tensor in backbone.trainable) == published + 2 * width


def test_the_side_pyramid_ends_in_72_channels(vit_b16: Backbone) -> None:
    backbone = copy.deepcopy(vit_b16)
    install(METHODS.get("hst")(), backbone)
    assert backbone.feature_dim == 72
