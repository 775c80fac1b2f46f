"""Rotary embeddings: made once for a size, and turned for a sequence into which methods have put tokens."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn


def remember_angles(net: nn.Module) -> None:
    """Has the rotary embedding of `net`, if it has one, made once for each size instead of in each pass.

    timm puts the grid of a network of any size (DINOv3) together on the host: a device would wait for it in each pass.
    Left alone are embeddings with parameters, and while it trains one that moves its grid at random.
    """
    rope: Any = getattr(net, "rope", None)
    if hasattr(rope, "get_embed") and not list(rope.parameters()):
        rope.made_angles = {}
        # bound, so that a copy of the network asks the copy
        rope.get_embed = MethodType(_remembered, rope)


def _remembered(rope: Any, shape: Any = None, dtype: torch.dtype | None = None) -> Tensor:
    # what is traced has to stand in the trace, and leaves tensors without numbers
    if torch.compiler.is_compiling() or (rope.training and any(getattr(rope, name, None) for name in _MOVED_GRID)):
        made_now: Tensor = type(rope).get_embed(rope, shape, dtype=dtype)
        return made_now
    like = next(rope.buffers())
    key = (None if shape is None else tuple(shape), dtype, like.dtype, like.device)
    if key not in rope.made_angles:
        # a first pass may be one of evaluation, whose tensors training could not use
        with torch.inference_mode(False), torch.no_grad():
            rope.made_angles[key] = type(rope).get_embed(rope, shape, dtype=dtype)
    made: Tensor = rope.made_angles[key]
    return made


_MOVED_GRID = ("shift_coords", "jitter_coords", "rescale_coords")


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
