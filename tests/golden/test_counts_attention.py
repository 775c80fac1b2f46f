"""Trainable parameters of the methods that act inside attention, on ViT-B/16 at 224 px, known beforehand."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from peftbench.backbones.base import Backbone
from peftbench.methods.base import METHODS, install
from tests.golden.counting import Count

COUNTS: list[tuple[str, dict[str, Any], int]] = [
    ("prefix", {}, 184_320),
    ("prefix", {"num_tokens": 20}, 368_640),
    ("mam", {}, 341_088),
    # by hand: 12 (2 * 30 * 768 + 2 * 768 * 512 + 512 + 768)
    ("mam", {"num_tokens": 30, "bottleneck": 512}, 10_005_504),
    ("patt", {}, 239_712),
    ("patt", {"bottleneck": 32}, 903_552),
    ("bapat", {}, 396_480),
    ("attnscale", {}, 484_140),
    ("attnscale", {"offsets": False}, 465_708),
    # by hand: 12 blocks with 12 heads and two offsets of 768
    ("attnscale_head", {}, 18_576),
    ("vqt", {}, 9_216),
    ("vqt", {"num_tokens": 10}, 92_160),
    ("noah_subnet", {}, 320_330),
    ("noah_subnet", {"subnet": "sun397"}, 287_278),
    ("noah_subnet", {"subnet": "svhn"}, 431_686),
    # by hand: 12 (768 + 4 * 768), no adapters
    ("noah_subnet", {"prompts": [1] * 12, "lora_ranks": [1] * 12, "adapter_widths": [0] * 12}, 46_080),
]


@pytest.mark.parametrize(("name", "options", "count"), COUNTS, ids=str)
def test_count_on_vit_b16(count_on_vit_b16: Count, name: str, options: dict[str, Any], count: int) -> None:
    assert count_on_vit_b16(name, options) == count


def test_vqt_widens_the_features_the_head_reads(vit_b16: Backbone) -> None:
    for num_tokens, width in ((1, 9_984), (20, 185_088)):
        backbone = copy.deepcopy(vit_b16)
        install(METHODS.get("vqt")(num_tokens=num_tokens), backbone)
        assert backbone.feature_dim == width


def test_the_released_subnets_have_the_published_mean_size(vit_b16: Backbone) -> None:
    cls = METHODS.get("noah_subnet")
    field = cls.__dataclass_fields__["subnet"]
    counts = [cls(subnet=task).expected_params(vit_b16.shape) for task in field.metadata["choices"]()]
    assert len(counts) == 19
    assert sum(counts) // 19 == 360_134
