"""Attention with relative positions (BEiT, timm's ViT-RelPos) under a sequence into which methods have put tokens."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import RelPosMlp
from timm.models import beit
from timm.models import vision_transformer_relpos as relpos
from torch import Tensor, nn


class RelativeAttention(nn.Module):
    """Base of attention that adds a part for each pair of places to its scores: timm's, and for longer sequences.

    Tokens that methods put between the prefix and the patches have no place on the grid: nothing is added to their
    scores nor to those of others for them.
    """

    num_prefix_tokens = 1

    def forward(self, x: Tensor, **shared: Tensor | None) -> Tensor:
        attn: Any = self
        batch, length, _ = x.shape
        q, k, v = attn.qkv(x).reshape(batch, length, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        if hasattr(attn, "q_norm"):
            q, k = attn.q_norm(q), attn.k_norm(k)
        dropout = attn.attn_drop.p if self.training else 0.0
        bias = self.position_bias(length, *shared.values())
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
        out: Tensor = attn.proj_drop(attn.proj(mixed.transpose(1, 2).flatten(2)))
        return out

    def position_bias(self, length: int, shared: Tensor | None = None) -> Tensor | None:
        """What is added to the scores of `length` tokens, [1, heads, length, length]; None without positions.

        `shared` is the part that all blocks of a network share.
        """
        own = self.own_bias()
        bias = shared if own is None else own if shared is None else own + shared
        if bias is None:
            return None
        return _spread(_spread(bias, length, -2, self.num_prefix_tokens), length, -1, self.num_prefix_tokens)

    def own_bias(self) -> Tensor | None:
        """The part of this block alone, for the sequence of the network without further tokens."""
        raise NotImplementedError


class RelativeBeitAttention(RelativeAttention, beit.Attention):
    """BEiT's once its biases lie in `qkv`."""

    def own_bias(self) -> Tensor | None:
        attn: Any = self
        own: Tensor | None = None if attn.relative_position_bias_table is None else attn._get_rel_pos_bias()
        return own


class RelPosAttention(RelativeAttention, relpos.RelPosAttention):
    """That of timm's ViT-RelPos, from a table or from a small network of coordinates."""

    def own_bias(self) -> Tensor | None:
        attn: Any = self
        own: Tensor | None = None if attn.rel_pos is None else attn.rel_pos.get_bias()
        return own


def _spread(bias: Tensor, length: int, dim: int, num_prefix: int) -> Tensor:
    """Zeros behind the prefix tokens until there are `length` entries."""
    more = length - bias.shape[dim]
    if more <= 0:
        return bias
    first, patches = bias.split([num_prefix, bias.shape[dim] - num_prefix], dim)
    shape = [more if axis == bias.ndim + dim else size for axis, size in enumerate(bias.shape)]
    return torch.cat([first, bias.new_zeros(shape), patches], dim)


def take_longer(net: nn.Module) -> None:
    """Let attention with relative positions take sequences of any length, a BEiT's once `fuse` has moved its biases.

    Changes the network in place. The small network that makes positions of coordinates drops units in timm's training;
    here positions are the same in training and in evaluation, whatever else is frozen.
    """
    for module in net.modules():
        attention: Any = module
        if type(module) is beit.Attention:
            attention.__class__ = RelativeBeitAttention
        elif type(module) is relpos.RelPosAttention:
            attention.__class__ = RelPosAttention
            attention.num_prefix_tokens = net.num_prefix_tokens
        elif isinstance(module, RelPosMlp):
            for dropout in (part for part in module.modules() if isinstance(part, nn.Dropout)):
                dropout.p = 0.0
