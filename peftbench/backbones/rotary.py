"""Rotary embeddings under a sequence into which methods have put tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def turn_only_patches(attn: Any, inputs: tuple[Tensor, ...], options: dict[str, Any]) -> tuple[Any, Any]:
    """Rotary embeddings for a sequence that methods have put tokens into: whatever lies ahead of the patches rests.

    timm turns all tokens behind the prefix; further ones get an angle of zero (sine 0, cosine 1).
    """
    rope = options.get("rope")
    if rope is not None:
        options = options | {"rope": resting(rope, inputs[0].shape[1] - attn.num_prefix_tokens)}
    return inputs, options


def resting(rope: Tensor, num_tokens: int) -> Tensor:
    """Rotary embedding [..., patches, sines and cosines] for `num_tokens`, the first of which do not turn."""
    *outer, num_patches, width = rope.shape
    if num_tokens <= num_patches:
        return rope
    angle = rope.new_zeros(*outer, num_tokens - num_patches, width // 2)
    return torch.cat([torch.cat([angle, angle + 1], dim=-1), rope], dim=-2)
