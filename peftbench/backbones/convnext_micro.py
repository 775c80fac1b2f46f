"""The embedded ConvNeXt: a plain timm network small enough to ship inside the package."""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.convnext import ConvNeXt

from peftbench.backbones.vit_micro import CIFAR10

NAME = "convnext_micro_32"
default_cfgs = generate_default_cfgs(
    {f"{NAME}.peftbench_cifar10": CIFAR10 | {"first_conv": "stem.0", "classifier": "head.fc"}}
)


@register_model
def convnext_micro_32(pretrained: bool = False, **kwargs: Any) -> ConvNeXt:
    """ConvNeXt of widths 64, 96, 160, 192 on 32 x 32 images: a stem of 4, kernels of 5, 5, 3, 3 for the smaller maps.

    1.4 M parameters. Weights: a file of this package, so build it with `pretrained=False`.
    """
    arguments: dict[str, Any] = {"dims": (64, 96, 160, 192), "depths": (2, 3, 3, 1), "kernel_sizes": (5, 5, 3, 3)}
    model: ConvNeXt = build_model_with_cfg(ConvNeXt, NAME, pretrained, **(arguments | kwargs))
    return model
