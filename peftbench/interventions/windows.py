"""A block's attention taken apart for methods that send more through it: windows and back, and what joins the heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.layers import Mlp
from timm.models.swin_transformer import WindowAttention, window_partition, window_reverse
from timm.models.vision_transformer import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.foundation.errors import NotApplicable


def require_written_out(block: nn.Module, who: str) -> None:
    """Raises `NotApplicable` unless attention and MLP of the block are of the kinds that a method can write out."""
    attn, mlp = getattr(block, "attn", None), getattr(block, "mlp", None)
    plain = isinstance(attn, (Attention, WindowAttention)) and getattr(attn, "gate", None) is None
    if not plain or type(mlp) is not Mlp:
        kind = type(block if attn is None else attn).__name__
        raise NotApplicable(f"{who} needs plain or windowed attention and a plain MLP as in ViT and Swin, not a {kind}")


def windowed(block: Any, x: Tensor) -> tuple[Tensor, Tensor | None, Callable[[Tensor], Tensor]]:
    """Tokens [windows * batch, length, width] as the block attends, what is added to their scores, and the way back."""
    if x.ndim == 3:
        return x, None, lambda y: y
    _, height, width, channels = x.shape
    (rows, columns), shift = block.window_size, tuple(block.shift_size)
    rolled = torch.roll(x, tuple(-step for step in shift), dims=(1, 2)) if any(shift) else x
    padded = F.pad(rolled, (0, 0, 0, -width % columns, 0, -height % rows))
    windows = window_partition(padded, (rows, columns)).view(-1, rows * columns, channels)
    bias = block.attn._get_rel_pos_bias()
    mask = block.get_attn_mask(padded) if getattr(block, "dynamic_mask", False) else block.attn_mask
    if mask is not None:
        bias = bias + mask.unsqueeze(1)

    def back(y: Tensor) -> Tensor:
        maps = y.unflatten(1, (rows, columns))
        maps = window_reverse(maps, (rows, columns), padded.shape[1], padded.shape[2])[:, :height, :width]
        return torch.roll(maps, shift, dims=(1, 2)) if any(shift) else maps

    return windows, bias, back


def heads_joined(attn: Any, mixed: Tensor) -> Tensor:
    """Mixed values [batch, heads, length, head_dim] -> [batch, length, width] as the output projection reads them."""
    y: Tensor = mixed.transpose(1, 2).flatten(2)
    normed: Tensor = attn.norm(y) if isinstance(attn, Attention) else y
    return normed
