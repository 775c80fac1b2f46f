"""Learnable tokens in the sequence of a plain transformer."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from peftbench.interventions.base import Intervention


class InsertTokens(Intervention):
    """Insert `num_tokens` learnable tokens between the prefix tokens and the patches, before the wrapped block.

    With `strip`, they are cut off again behind the block. Token values are drawn from U(-v, v) with
    v = sqrt(6 / (3 patch_size^2 + width)), the xavier bound of a patch projection (VPT, arXiv:2203.12119, released
    code). tokens: [batch, prefix + patches, width].
    """

    def __init__(self, base: nn.Module, num_tokens: int, width: int, patch_size: int, num_prefix: int, dropout: float, strip: bool) -> None:
        super().__init__(base)
        bound = math.sqrt(6 / (3 * patch_size**2 + width))
        self.tokens = nn.Parameter(torch.empty(1, num_tokens, width).uniform_(-bound, bound))
        self.dropout = nn.Dropout(dropout)
        self.num_prefix, self.strip = num_prefix, strip

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        prompts = self.dropout(self.tokens).expand(len(x), -1, -1).to(x.dtype)
        x = torch.cat([x[:, : self.num_prefix], prompts, x[:, self.num_prefix :]], dim=1)
        x = self.base(x, **arguments)
        return strip_tokens(x, self.num_prefix, self.tokens.shape[1]) if self.strip else x


class StripTokens(Intervention):
    """Cut `num_tokens` tokens behind the prefix off the output of the wrapped block."""

    def __init__(self, base: nn.Module, num_tokens: int, num_prefix: int) -> None:
        super().__init__(base)
        self.num_tokens, self.num_prefix = num_tokens, num_prefix

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        return strip_tokens(self.base(x, **arguments), self.num_prefix, self.num_tokens)


def strip_tokens(x: Tensor, num_prefix: int, num_tokens: int) -> Tensor:
    """Sequence without the `num_tokens` tokens that follow the prefix."""
    return torch.cat([x[:, :num_prefix], x[:, num_prefix + num_tokens :]], dim=1)
