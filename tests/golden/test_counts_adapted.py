"""Trainable parameters of the adapted forms of dense and multimodal methods on ViT-B/16, D = 768 and 12 blocks."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

from peftbench.backbones.build import from_timm
from peftbench.methods.base import METHODS
from tests.golden.counting import Count

COUNTS: list[tuple[str, dict[str, Any], int]] = [
    # by hand: 24 adapters of two branches 2 * 8 * (768 + 384) + 64, and biases 384 + 768
    ("lorand", {}, 915_456),
    # four branches of rank 16
    ("lorand", {"num_branches": 4, "rank": 16}, 24 * (4 * (2 * 16 * 1152 + 256) + 1152)),
    # by hand: qkv, proj, fc1 and fc2 have 768 singular values each
    ("sam_parser", {}, 36_864),
    ("sam_parser", {"targets": ["fc1"]}, 9_216),
    # by hand: 26 bottlenecks of 2 * 768 * 8 + 8 + 768 behind embedding, 12 times attention and MLP, final norm
    ("lossless_adapter", {}, 26 * 13_064),
    ("lossless_adapter", {"places": ["bottom"]}, 13_064),
    ("lossless_adapter", {"places": ["middle"]}, 313_536),
    ("lossless_adapter", {"places": ["top"]}, 13_064),
    # by hand: 12 (832 * 8 + 64 + 4 (832 * 8 + 768)) + 4^3
    ("mixphm", {}, 437_056),
    ("mixphm", {"shared": "none"}, 12 * 4 * (2 * 832 * 8 + 832) + 64),
    # one expert of rank 1 is Compacter's adapter behind the MLP alone: 12 (2 * 792 + 24 + 768) + 64
    ("mixphm", {"bottleneck": 24, "num_experts": 1, "rank": 1}, 28_576),
    # by hand: 10 * 768 and 12 times four maps of 768 * 8
    ("hyperprompt", {}, 302_592),
]


@pytest.mark.parametrize(("name", "options", "count"), COUNTS, ids=str)
def test_count_on_vit_b16(count_on_vit_b16: Count, name: str, options: dict[str, Any], count: int) -> None:
    assert count_on_vit_b16(name, options) == count


def test_lorand_has_the_published_size_on_swin_b() -> None:
    """1.20 M, as printed for Swin-B: bottleneck, branches and rank are those of the paper."""
    with torch.device("meta"):
        net = timm.create_model("swin_base_patch4_window7_224", pretrained=False, num_classes=0)
    assert METHODS.get("lorand")().expected_params(from_timm(net).shape) == 1_197_312
