"""Video Swin (Liu et al., CVPR 2022, arXiv:2106.13230): torchvision's network with attention that methods can reach.

torchvision calls the attention's weights past any wrapper, so its windows are made here and what is inside a window is
timm's attention, with a table of positions in three axes. The names of the weights are torchvision's.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.swin_transformer import SwinTransformerBlock
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d, SwinTransformer3d

Size = tuple[int, int, int]

PATCH, WINDOW = (2, 4, 4), (8, 7, 7)
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
_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)},
    "small": {"embed_dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)},
    "base": {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)},
}
MODELS = tuple(f"swin3d_{size}_patch244_window877" for size in _SIZES)
default_cfgs = generate_default_cfgs(dict.fromkeys(MODELS, _CONFIG))


class WindowAttention3d(WindowAttention):
    """timm's attention inside windows of `window` = (times, rows, columns): [windows * batch, length, width]."""

    def __init__(self, dim: int, window_size: list[int], shift_size: list[int], num_heads: int, **others: Any) -> None:
        super().__init__(dim, num_heads, window_size=1)
        table = ShiftedWindowAttention3d(dim, window_size, shift_size, num_heads)
        self.relative_position_bias_table = table.relative_position_bias_table
        self.register_buffer("relative_position_index", table.relative_position_index, persistent=False)
        self.largest, self.shifts = tuple(window_size), tuple(shift_size)
        self.fused_attn = True

    def fit(self, size: Size) -> None:
        """Windows no larger than maps of `size`; an axis that one window covers is not shifted, as in torchvision."""
        pairs = list(zip(size, self.largest, self.shifts, strict=True))
        self.window: Any = tuple(min(length, window) for length, window, _ in pairs)
        self.shift: Any = tuple(0 if length <= window else shift for length, window, shift in pairs)
        self.window_area = self.window[0] * self.window[1] * self.window[2]

    def _get_rel_pos_bias(self) -> Tensor:
        index: Tensor = self.relative_position_index[: self.window_area, : self.window_area]
        bias: Tensor = self.relative_position_bias_table[index.reshape(-1)]
        return bias.view(self.window_area, self.window_area, -1).permute(2, 0, 1).unsqueeze(0)


class VideoSwinBlock(SwinTransformerBlock):
    """maps [batch, times, rows, columns, width] -> the same: windows, shifted in every second block, then the MLP."""

    window: Size
    shift: Size

    def _attn(self, x: Tensor) -> Tensor:
        window, shift, size = self.window, self.shift, x.shape[1:4]
        pads = [-length % side for length, side in zip(size, window, strict=True)]
        padded = F.pad(x, (0, 0, 0, pads[2], 0, pads[1], 0, pads[0]))
        back = [-step for step in shift]
        padded = torch.roll(padded, back, dims=(1, 2, 3)) if any(shift) else padded
        windows, counts = partition(padded, window)
        mask = shift_mask(padded.shape[1:4], window, shift).to(x) if any(shift) else None
        y = joined(self.attn(windows, mask=mask), window, counts)
        y = torch.roll(y, shift, dims=(1, 2, 3)) if any(shift) else y
        return y[:, : size[0], : size[1], : size[2]].contiguous()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.stochastic_depth(self._attn(self.norm1(x)))
        return x + self.stochastic_depth(self.mlp(self.norm2(x)))


def partition(x: Tensor, window: Size) -> tuple[Tensor, tuple[int, ...]]:
    """[batch, times, rows, columns, width] -> [batch * windows, length, width], and how many windows each axis has."""
    counts = tuple(length // side for length, side in zip(x.shape[1:4], window, strict=True))
    cut = x.reshape(x.shape[0], counts[0], window[0], counts[1], window[1], counts[2], window[2], x.shape[-1])
    return cut.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, window[0] * window[1] * window[2], x.shape[-1]), counts


def joined(windows: Tensor, window: Size, counts: tuple[int, ...]) -> Tensor:
    """What `partition` cut."""
    x = windows.reshape(-1, *counts, *window, windows.shape[-1]).permute(0, 1, 4, 2, 5, 3, 6, 7)
    lengths = [count * side for count, side in zip(counts, window, strict=True)]
    return x.reshape(x.shape[0], *lengths, windows.shape[-1])


def shift_mask(size: tuple[int, ...], window: Size, shift: Size) -> Tensor:
    """[windows, length, length]: 0 between places that were neighbours ahead of the shift, -100 between the others."""
    part = torch.zeros(1, *size, 1)
    number = 0
    for times in _parts(window[0], shift[0]):
        for rows in _parts(window[1], shift[1]):
            for columns in _parts(window[2], shift[2]):
                part[:, times, rows, columns] = number
                number += 1
    parts = partition(part, window)[0].squeeze(-1)
    return (parts[:, None] != parts[:, :, None]).float() * -100.0


def _parts(window: int, shift: int) -> tuple[slice, slice, slice]:
    # without a shift the last part is everything and wins, as in torchvision
    return slice(0, -window), slice(-window, -shift), slice(-shift, None)


class VideoSwin(SwinTransformer3d):
    """clips [batch, 3, frames, height, width] -> maps [batch, times, rows, columns, width] -> their mean."""

    def __init__(
        self,
        img_size: int = 224,
        num_frames: int = 32,
        embed_dim: int = 96,
        depths: tuple[int, ...] = (2, 2, 6, 2),
        num_heads: tuple[int, ...] = (3, 6, 12, 24),
        window_size: Size = WINDOW,
        drop_path_rate: float = 0.0,
        num_classes: int = 0,
        **others: Any,
    ) -> None:
        super().__init__(
            list(PATCH),
            embed_dim,
            list(depths),
            list(num_heads),
            list(window_size),
            stochastic_depth_prob=drop_path_rate,
            block=_block,
        )
        self.reset_classifier(num_classes)
        self.num_frames = num_frames
        side, times = -(-img_size // PATCH[1]), -(-num_frames // PATCH[0])
        embed: Any = self.patch_embed
        embed.img_size, embed.grid_size, embed.times = (img_size, img_size), (side, side), times
        stages: Any = self.features
        for stage in stages:
            if isinstance(stage, nn.Sequential):
                block: Any
                for block in stage:
                    block.attn.fit((times, side, side))
                    block.window, block.shift = block.attn.window, block.attn.shift
            else:
                side = -(-side // 2)

    def reset_classifier(self, num_classes: int) -> None:
        """A new classifier, or none: what timm's networks know how to do."""
        head: Any = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        self.head, self.num_classes = head, num_classes

    def get_classifier(self) -> nn.Module:
        head: nn.Module = self.head
        return head

    def forward_features(self, clips: Tensor) -> Tensor:
        maps: Tensor = self.norm(self.features(self.pos_drop(self.patch_embed(clips))))
        return maps

    def forward_head(self, maps: Tensor, pre_logits: bool = False) -> Tensor:
        return maps.mean(dim=(1, 2, 3))


def _block(*sizes: Any, **options: Any) -> VideoSwinBlock:
    return VideoSwinBlock(*sizes, **(options | {"attn_layer": WindowAttention3d}))


def checkpoint_filter_fn(state: dict[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """torchvision's names for the tensors of the authors' release (SwinTransformer/Video-Swin-Transformer)."""
    renamed = {}
    for name, tensor in state.items():
        name = re.sub(r"^layers\.(\d+)\.blocks\.", lambda m: f"features.{2 * int(m[1])}.", name)
        name = re.sub(r"^layers\.(\d+)\.downsample\.", lambda m: f"features.{2 * int(m[1]) + 1}.", name)
        renamed[name.replace(".mlp.fc1.", ".mlp.0.").replace(".mlp.fc2.", ".mlp.3.")] = tensor
    return renamed


def _create(size: str, pretrained: bool, **arguments: Any) -> VideoSwin:
    name = f"swin3d_{size}_patch244_window877"
    model: VideoSwin = build_model_with_cfg(VideoSwin, name, pretrained, **(_SIZES[size] | arguments))
    return model


@register_model
def swin3d_tiny_patch244_window877(pretrained: bool = False, **arguments: Any) -> VideoSwin:
    """Video Swin-T: 28 M parameters."""
    return _create("tiny", pretrained, **arguments)


@register_model
def swin3d_small_patch244_window877(pretrained: bool = False, **arguments: Any) -> VideoSwin:
    """Video Swin-S: 50 M parameters."""
    return _create("small", pretrained, **arguments)


@register_model
def swin3d_base_patch244_window877(pretrained: bool = False, **arguments: Any) -> VideoSwin:
    """Video Swin-B: 88 M parameters."""
    return _create("base", pretrained, **arguments)
