"""Attention with relative positions (BEiT, BEiT v2) under a sequence into which methods have put tokens."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.models import beit
from torch import Tensor, nn


class RelativeAttention(beit.Attention):
    """BEiT's attention once its biases lie in `qkv`: the same function, and one for longer sequences.

    Tokens that methods put between the class token and the patches have no place on the grid: nothing is added to
    their scores nor to those of others for them.
    """

    def forward(self, x: Tensor, shared_rel_pos_bias: Tensor | None = None) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        dropout = self.attn_drop.p if self.training else 0.0
        bias = self.position_bias(length, shared_rel_pos_bias)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
        out: Tensor = self.proj_drop(self.proj(mixed.transpose(1, 2).flatten(2)))
        return out

    def position_bias(self, length: int, shared: Tensor | None = None) -> Tensor | None:
        """What is added to the scores of `length` tokens, [1, heads, length, length]; None without positions.

        `shared` is the part that all blocks of a network share.
        """
        bias = shared
        if self.relative_position_bias_table is not None:
            own = self._get_rel_pos_bias()
            bias = own if shared is None else own + shared
        return None if bias is None else _spread(_spread(bias, length, -2), length, -1)


def _spread(bias: Tensor, length: int, dim: int) -> Tensor:
    """Zeros behind the class token until there are `length` entries."""
    more = length - bias.shape[dim]
    if more <= 0:
        return bias
    first, patches = bias.split([1, bias.shape[dim] - 1], dim)
    shape = [more if axis == bias.ndim + dim else size for axis, size in enumerate(bias.shape)]
    return torch.cat([first, bias.new_zeros(shape), patches], dim)


def take_longer(net: nn.Module) -> None:
    """Let the attention of a BEiT, whose biases `fuse` has moved, take sequences of any length; changes it in place."""
    for module in net.modules():
        if type(module) is beit.Attention:
            attention: Any = module
            attention.__class__ = RelativeAttention
