"""The embedded Swin: a plain timm network small enough to ship inside the package."""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.swin_transformer import SwinTransformer

from peftbench.backbones.vit_micro import CIFAR10

NAME = "swin_micro_patch4_window4_32"
default_cfgs = generate_default_cfgs(
    {f"{NAME}.peftbench_cifar10": CIFAR10 | {"first_conv": "patch_embed.proj", "classifier": "head.fc"}}
)


@register_model
def swin_micro_patch4_window4_32(pretrained: bool = False, **kwargs: Any) -> SwinTransformer:
    """Swin of widths 64 and 128 with two and four blocks on 32 x 32 images: patches of 4, windows of 4 x 4 tokens.

    0.9 M parameters. Weights: a file of this package, so build it with `pretrained=False`.
    """
    arguments: dict[str, Any] = {
        "img_size": 32,
        "patch_size": 4,
        "window_size": 4,
        "embed_dim": 64,
        "depths": (2, 4),
        "num_heads": (2, 4),
    }
    model: SwinTransformer = build_model_with_cfg(SwinTransformer, NAME, pretrained, **(arguments | kwargs))
    return model
