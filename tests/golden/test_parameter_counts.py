"""Trainable parameters on ViT-B/16 at 224 px, without the classifier, against counts known before the code was written.

The numbers were derived from the papers' equations and agree with the published ones where those leave out the head.
"""

from __future__ import annotations

from typing import Any

import pytest

from peftbench.backbones.base import Backbone
from peftbench.contracts.backbones import of_clips, of_tasks
from peftbench.methods.base import METHODS
from tests.golden.counting import Count

COUNTS: list[tuple[str, dict[str, Any], int]] = [
    ("full", {}, 85_798_656),
    ("linear", {}, 0),
    ("bitfit", {}, 102_912),
    ("ssf", {}, 205_824),
    ("lora", {}, 294_912),
    ("lora", {"rank": 4}, 147_456),
    ("lora", {"rank": 16}, 589_824),
    # by hand: 12 blocks, rank (in + out) each: q, k, v 3 * 8 * 1536; proj 8 * 1536; fc1 and fc2 8 * 3840
    ("lora", {"targets": ["q", "k", "v"]}, 442_368),
    ("lora", {"targets": ["proj"]}, 147_456),
    ("lora", {"targets": ["fc1", "fc2"]}, 737_280),
    ("adaptformer", {}, 156_768),
    ("adaptformer", {"bottleneck": 64}, 1_189_632),
    ("vpt_shallow", {"num_tokens": 100}, 76_800),
    ("vpt_deep", {"num_tokens": 1}, 9_216),
    ("vpt_deep", {"num_tokens": 5}, 46_080),
    ("vpt_deep", {"num_tokens": 10}, 92_160),
    ("vpt_deep", {"num_tokens": 50}, 460_800),
    ("vpt_deep", {"num_tokens": 100}, 921_600),
    ("pro_vpt", {"num_tokens": 20}, 184_320),
    ("cvpt", {}, 92_160),
    ("vfpt", {}, 92_160),
    # 12 (10 + 5) 768
    ("e2vpt", {}, 138_240),
]


@pytest.mark.parametrize(("name", "options", "count"), COUNTS, ids=str)
def test_count_on_vit_b16(count_on_vit_b16: Count, name: str, options: dict[str, Any], count: int) -> None:
    assert count_on_vit_b16(name, options) == count


COUNTED = [n for n in METHODS.names() if not (METHODS.get(n).observes or METHODS.get(n).of_pairs)]


@pytest.mark.parametrize("name", COUNTED)
def test_every_formula_holds_on_vit_b16(count_on_vit_b16: Count, vit_b16: Backbone, name: str) -> None:
    shape = of_clips(vit_b16).shape if METHODS.get(name).mixes_time else vit_b16.shape
    shape = of_tasks(vit_b16, 4, 4).shape if METHODS.get(name).by_task else shape
    assert count_on_vit_b16(name, {}) == METHODS.get(name)().expected_params(shape)


def test_shape_of_vit_b16(vit_b16: Backbone) -> None:
    shape = vit_b16.shape
    assert (shape.width, shape.depth, shape.num_heads, shape.patch_size) == (768, 12, 12, 16)
    assert (shape.grid, shape.num_patches, shape.num_prefix_tokens) == ((14, 14), 196, 1)
    assert shape.num_parameters == 85_798_656
    assert sum(2 * norm.out_dim for norm in shape.at("norm")) == 38_400
    assert [(site.in_dim, site.out_dim) for site in shape.at("attn.qkv")] == [(768, 2304)] * 12
    assert [(site.in_dim, site.out_dim) for site in shape.at("mlp.fc1", "mlp.fc2")][:2] == [(768, 3072), (3072, 768)]
