"""The embedded promptable segmenter: an image encoder in SAM's form, small enough to ship inside the package."""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import nn

NAME = "sam_micro_patch4_32"

default_cfgs = generate_default_cfgs(
    {
        f"{NAME}.peftbench_scenes": {
            "url": "",
            "num_classes": 0,
            "input_size": (3, 32, 32),
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "first_conv": "patch_embed.proj",
            "classifier": "head.fc",
        }
    }
)


@register_model
def sam_micro_patch4_32(pretrained: bool = False, **kwargs: Any) -> VisionTransformerSAM:
    """SAM's encoder at width 96, depth 6, 3 heads, windows of 4 x 4 tokens but in every second block, a neck of 64.

    timm has nothing to download for it: the weights, prompt encoder and mask decoder included, are a file of this
    package in SAM's own layout.
    """
    arguments: dict[str, Any] = {
        "img_size": 32,
        "patch_size": 4,
        "embed_dim": 96,
        "depth": 6,
        "num_heads": 3,
        "window_size": 4,
        "global_attn_indexes": (1, 3, 5),
        "use_rel_pos": True,
        "neck_chans": 64,
        "norm_layer": partial(nn.LayerNorm, eps=1e-6),
    }
    model: VisionTransformerSAM = build_model_with_cfg(
        VisionTransformerSAM,
        NAME,
        pretrained,
        feature_cfg={"out_indices": 3, "feature_cls": "getter"},
        **(arguments | kwargs),
    )
    return model
