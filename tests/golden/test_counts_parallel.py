"""Trainable parameters of the tuners beside frozen operations, on ViT-B/16 at 224 px, known beforehand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch

from peftbench.backbones.base import Backbone
from peftbench.backbones.build import from_timm
from peftbench.methods.base import METHODS, install

COUNTS: list[tuple[str, dict[str, Any], int]] = [
    # by hand: 12 (2 * 10 * 768) + 12 (2 * 768 * 8 + 8 + 768)
    ("u_tuning", {}, 341_088),
    ("u_tuning", {"block": "adapter"}, 497_856),
    ("u_tuning", {"attention": "adapter", "bottleneck": 64}, 2 * 1_189_632),
    ("u_tuning", {"attention": "none"}, 156_768),
    # by hand: 12 (24 * 32 + 32 * 24), and one number for each block
    ("krona_b", {}, 18_432),
    ("krona_b_res", {}, 18_444),
    # by hand: 10 * 768 + 800 * 769 + 2 * 768 * 12 * 801
    ("prefix", {"mlp_width": 800}, 15_386_912),
    ("mam", {"mlp_width": 800}, 15_386_912 + 156_768),
]


@pytest.fixture(scope="module")
def vit_b16() -> Backbone:
    """Shapes without storage: only numbers are counted."""
    with torch.device("meta"):
        return from_timm(timm.create_model("vit_base_patch16_224", pretrained=False, num_classes=0))


@pytest.mark.parametrize(("name", "options", "count"), COUNTS, ids=str)
def test_count_on_vit_b16(vit_b16: Backbone, name: str, options: dict[str, Any], count: int) -> None:
    method, backbone = METHODS.get(name)(**options), copy.deepcopy(vit_b16)
    install(method, backbone)
    assert sum(parameter.numel() for parameter in backbone.parameters() if parameter.requires_grad) == count
    assert method.expected_params(vit_b16.shape) == count
