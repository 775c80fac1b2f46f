"""The embedded backbones: plain timm vision transformers small enough to ship inside the package."""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer

NAME = "vit_micro_patch4_32"
PAIR_NAME = "vit_micro_d4_patch8_32"

# CIFAR-10 statistics: what the packaged weights were trained with.
CIFAR10: dict[str, Any] = {
    "url": "",
    "num_classes": 10,
    "input_size": (3, 32, 32),
    "mean": (0.4914, 0.4822, 0.4465),
    "std": (0.2470, 0.2435, 0.2616),
    "interpolation": "bicubic",
    "crop_pct": 1.0,
}
_CONFIG = CIFAR10 | {"first_conv": "patch_embed.proj", "classifier": "head"}
default_cfgs = generate_default_cfgs(
    {f"{NAME}.peftbench_cifar10": _CONFIG, f"{PAIR_NAME}.peftbench_pair": _CONFIG | {"num_classes": 0}}
)


@register_model
def vit_micro_patch4_32(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """ViT of width 128, depth 6, 4 heads on 32 x 32 images with 4 x 4 patches (1.2 M parameters).

    timm has nothing to download for it: the weights are a file of this package, loaded like any other
    checkpoint, so build it with `pretrained=False`.
    """
    return _built(NAME, pretrained, kwargs)


@register_model
def vit_micro_d4_patch8_32(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """The same with four blocks and 8 x 8 patches (0.8 M parameters): the image tower of the embedded pair."""
    return _built(PAIR_NAME, pretrained, {"patch_size": 8, "depth": 4} | kwargs)


def _built(name: str, pretrained: bool, kwargs: dict[str, Any]) -> VisionTransformer:
    arguments: dict[str, Any] = {"img_size": 32, "patch_size": 4, "embed_dim": 128, "depth": 6, "num_heads": 4}
    model: VisionTransformer = build_model_with_cfg(
        VisionTransformer,
        name,
        pretrained,
        feature_cfg={"out_indices": 3, "feature_cls": "getter"},
        **(arguments | kwargs),
    )
    return model
