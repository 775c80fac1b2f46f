"""Rotary embeddings: made once for a size, and turned for a sequence into which methods have put tokens."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.pos_embed_sincos import RotaryEmbeddingDinoV3
from torch import Tensor, nn
from torch._guards import detect_fake_mode

# Of sizes beyond these the angles are made in each pass; none is let go of, since recorded steps may read it.
_MOST_SIZES = 16


def keep_angles(net: nn.Module) -> None:
    """Has the rotary embedding of DINOv3 made once for each size in place of in each pass.

    timm puts its grid together on the host: a device would wait for it in each pass.
    """
    rope: Any = getattr(net, "rope", None)
    if type(rope) is RotaryEmbeddingDinoV3:
        rope.__class__ = KeptAngles
        rope.kept = {}


class KeptAngles(RotaryEmbeddingDinoV3):
    """timm's embedding, which keeps what it made; a copy of it, or a file, begins with nothing kept."""

    kept: dict[Any, Tensor]

    def get_embed(self, shape: Any = None, **options: Any) -> Tensor:
        """Sines and cosines [patches, 2 * head width] of a grid (height, width); without one, timm's own buffer."""
        moves = self.training and any(getattr(self, name, None) for name in _MOVED_GRID)
        # what is traced has to stand in the trace, and leaves tensors without numbers
        if shape is None or moves or torch.compiler.is_compiling() or detect_fake_mode() is not None:
            return super().get_embed(shape, **options)
        like = self.periods
        key = (*shape, *options.items(), like.dtype, like.device, like._version)
        if key in self.kept:
            return self.kept[key]
        # a first pass may be one of evaluation, whose tensors training could not use
        with torch.inference_mode(False), torch.no_grad():
            made: Tensor = super().get_embed(shape, **options)
        self.kept = {known: angles for known, angles in self.kept.items() if angles.device == like.device}
        if len(self.kept) < _MOST_SIZES:
            self.kept[key] = made
        return made

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"kept": {}}


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
