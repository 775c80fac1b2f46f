"""Where tensors have their channels. Axes are counted from the front: torch's writer of ONNX takes no others there."""

from __future__ import annotations

from torch import Tensor


def channels_last(x: Tensor, channel_dim: int) -> Tensor:
    """`x` with its channels, which are at `channel_dim`, as the last axis."""
    return x.movedim(channel_dim % x.ndim, x.ndim - 1)


def channels_at(x: Tensor, channel_dim: int) -> Tensor:
    """`x`, whose channels are the last axis, with them at `channel_dim`: `channels_last` undone."""
    return x.movedim(x.ndim - 1, channel_dim % x.ndim)
