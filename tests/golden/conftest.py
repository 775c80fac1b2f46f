"""ViT-B/16 without storage and what a method trains of it; the PEFT library made comparable to the last bits."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from peftbench.backbones.base import Backbone
from peftbench.backbones.build import from_timm
from peftbench.contracts.backbones import make, of_clips, of_tasks
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


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the library makes without a type, or of single precision, is of double precision like all else here."""
    make("vit_layerscale")  # whose copies other tests share, in single precision
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def butterflies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's butterfly factors without its CUDA extension, whose one operation is the block-diagonal matrix.

    Without it the library leaves all factors but the first out.
    """
    from peft.tuners.boft import layer

    class BlockDiagonal:
        @staticmethod
        def apply(blocks: Tensor) -> Tensor:
            return torch.stack([torch.block_diag(*factor) for factor in blocks])

    monkeypatch.setattr(layer, "get_fbd_cuda", lambda: True)
    monkeypatch.setattr(layer, "FastBlockDiag", BlockDiagonal)
