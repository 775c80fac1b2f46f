"""ViT-B/16 at 224 px without storage, and how many of its parameters a method trains."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch

from peftbench.backbones.base import Backbone
from peftbench.backbones.build import from_timm
from peftbench.contracts.backbones import of_clips, of_tasks
from peftbench.methods.base import METHODS, install
from tests.golden.counting import Count


@pytest.fixture(scope="session")
def vit_b16() -> Backbone:
    """Shapes without storage: only numbers are counted."""
    with torch.device("meta"):
        return from_timm(timm.create_model("vit_base_patch16_224", pretrained=False, num_classes=0))


@pytest.fixture
def count_on_vit_b16(vit_b16: Backbone) -> Count:
    """(method, options) -> number of tensors' entries that train; the closed formula must say the same."""

    def count(name: str, options: dict[str, Any]) -> int:
        method, backbone = METHODS.get(name)(**options), copy.deepcopy(vit_b16)
        if method.mixes_time:
            backbone = of_clips(backbone)
        if method.by_task:
            backbone = of_tasks(backbone, 4, 4)
        shape = backbone.shape
        install(method, backbone)
        counted = sum(parameter.numel() for parameter in backbone.parameters() if parameter.requires_grad)
        assert method.expected_params(shape) == counted
        return counted

    return count
