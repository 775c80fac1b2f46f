"""Vision transformers of clips, whose tokens are tubelets: VideoMAE (Tong et al., NeurIPS 2022, arXiv:2203.12602).

A plain timm transformer behind another patch embedding. Frames are not folded into the batch: one sequence holds the
patches of all time steps, and the network's own attention mixes time.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from peftbench.backbones.base import Backbone
from peftbench.foundation.errors import ConfigError

TUBELET = 2

# ImageNet statistics, with which VideoMAE was trained.
_CONFIG = {
    "url": "",
    "num_classes": 0,
    "input_size": (3, 224, 224),
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "interpolation": "bilinear",
    "crop_pct": 1.0,
    "first_conv": "patch_embed.proj",
    "classifier": "head",
}
_SIZES = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16), "huge": (1280, 32, 16)}
MODELS = tuple(f"vit_{size}_patch16_videomae_224" for size in _SIZES)
default_cfgs = generate_default_cfgs(dict.fromkeys(MODELS, _CONFIG))


class TubeletEmbed(nn.Module):
    """clips [batch, 3, frames, height, width] -> tokens [batch, times * rows * columns, width], one for each tubelet.

    A convolution over `TUBELET` frames and a patch; what it gives gets a fixed place, the sine-cosine table over the
    flattened index. Time is the slowest axis.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        num_frames: int = 16,
        **others: Any,
    ) -> None:
        super().__init__()
        side = img_size if isinstance(img_size, int) else img_size[0]
        self.img_size, self.patch_size = (side, side), (patch_size, patch_size)
        self.grid_size = (side // patch_size, side // patch_size)
        self.times = num_frames // TUBELET
        self.num_patches = self.times * self.grid_size[0] * self.grid_size[1]
        kernel = (TUBELET, patch_size, patch_size)
        self.proj = nn.Conv3d(in_chans, embed_dim, kernel, kernel)
        self.register_buffer("places", sine_table(self.num_patches, embed_dim), persistent=False)

    def forward(self, clips: Tensor) -> Tensor:
        tokens = self.proj(clips).flatten(2).transpose(1, 2)
        return tokens + self.places.to(tokens.dtype)


def sine_table(num_places: int, width: int) -> Tensor:
    """[1, num_places, width]: sin and cos, in turn, of place / 10000^(2 floor(channel / 2) / width)."""
    channel = torch.arange(width, dtype=torch.float64)
    angle = torch.arange(num_places, dtype=torch.float64)[:, None] / 10000 ** (2 * (channel // 2) / width)
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos()).float()[None]


class VideoTransformer(VisionTransformer):
    """VideoMAE's encoder: tubelets of 2 x 16 x 16, no class token, the mean of the tokens behind `fc_norm`.

    Keys have a bias here that the releases lack, of zero (`layouts`): queries' scores do not feel it.
    """

    def __init__(self, num_frames: int = 16, **arguments: Any) -> None:
        if num_frames % TUBELET:
            raise ConfigError([f"dataset.frames={num_frames}: tubelets are of {TUBELET} frames; take an even number"])

        def embed(**sizes: Any) -> TubeletEmbed:
            return TubeletEmbed(num_frames=num_frames, **sizes)

        fixed: dict[str, Any] = {"class_token": False, "global_pool": "avg", "pos_embed": "none", "embed_layer": embed}
        super().__init__(**(arguments | fixed))
        self.num_frames = num_frames


def checkpoint_filter_fn(state: dict[str, Tensor], net: Any) -> dict[str, Tensor]:
    """The releases' tensors under timm's names: biases of queries and values as one vector with zeros for the keys.

    What was pretrained without labels has a norm behind the blocks in place of `fc_norm`, which starts anew, as in
    VideoMAE's and AdaptFormer's fine-tuning.
    """
    kept = {name: tensor for name, tensor in state.items() if not name.endswith((".q_bias", ".v_bias"))}
    for name, q_bias in state.items():
        if name.endswith(".q_bias"):
            block = name.removesuffix("q_bias")
            kept[f"{block}qkv.bias"] = torch.cat([q_bias, torch.zeros_like(q_bias), state[f"{block}v_bias"]])
    if "fc_norm.weight" not in kept:
        kept = {name: tensor for name, tensor in kept.items() if not name.startswith("norm.")}
        kept |= {"fc_norm.weight": torch.ones(net.num_features), "fc_norm.bias": torch.zeros(net.num_features)}
    return kept


def _create(size: str, pretrained: bool, **arguments: Any) -> VideoTransformer:
    width, depth, heads = _SIZES[size]
    sizes = {"patch_size": 16, "embed_dim": width, "depth": depth, "num_heads": heads}
    model: VideoTransformer = build_model_with_cfg(
        VideoTransformer, f"vit_{size}_patch16_videomae_224", pretrained, **(sizes | arguments)
    )
    return model


@register_model
def vit_small_patch16_videomae_224(pretrained: bool = False, **arguments: Any) -> VideoTransformer:
    """ViT-S of clips: 22 M parameters."""
    return _create("small", pretrained, **arguments)


@register_model
def vit_base_patch16_videomae_224(pretrained: bool = False, **arguments: Any) -> VideoTransformer:
    """ViT-B of clips: 86 M parameters."""
    return _create("base", pretrained, **arguments)


@register_model
def vit_large_patch16_videomae_224(pretrained: bool = False, **arguments: Any) -> VideoTransformer:
    """ViT-L of clips: 303 M parameters."""
    return _create("large", pretrained, **arguments)


@register_model
def vit_huge_patch16_videomae_224(pretrained: bool = False, **arguments: Any) -> VideoTransformer:
    """ViT-H of clips: 631 M parameters."""
    return _create("huge", pretrained, **arguments)


class Tubelets(Backbone):
    """clips [batch, frames, 3, height, width] -> features [batch, feature_dim], of a network of clips."""

    def forward(self, clips: Tensor) -> Tensor:
        self.require_clips(clips)
        return super().forward(clips.transpose(1, 2))
