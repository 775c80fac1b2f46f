"""LAST (Tang, Fu, Zhu and Wu, arXiv:2402.04009): low-rank attention side-tuning."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import SideBlock
from peftbench.methods.base import METHODS, Method

Sums = tuple[Tensor, Tensor]


class LowRankAttention(nn.Module):
    """LSA(x) = softmax(q k^T / sqrt(r)) v O with q, k, v = W LN(x) in r dimensions: one head, no biases.

    x: [batch, length, width] -> [batch, length, width]. W is kaiming-uniform with a = sqrt(5), O zero.
    """

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Parameter(torch.empty(3 * rank, width))
        self.out = nn.Parameter(torch.zeros(width, rank))
        nn.init.kaiming_uniform_(self.qkv, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = F.linear(self.norm(x), self.qkv).chunk(3, dim=-1)
        return F.linear(F.scaled_dot_product_attention(q, k, v), self.out)


class AttentionStep(nn.Module):
    """One block of the side network; the state is (z_0 + ... + z_i, LSA_1 + ... + LSA_i), whose sum is u_i."""

    def __init__(self, attention: LowRankAttention, last: bool) -> None:
        super().__init__()
        self.attention = attention
        self.last = last

    def forward(self, x: Tensor, y: Tensor, state: Sums | None) -> tuple[Tensor, Sums]:
        frozen, learned = state if state is not None else (x, torch.zeros_like(x))
        frozen = frozen + y
        learned = learned + self.attention(frozen + learned)
        return (y + learned if self.last else y), (frozen, learned)

    def map_of(self, stream: Tensor, state: Sums) -> Tensor:
        """What the stream would be if this block were the last."""
        return stream + state[1]


@METHODS.add("last")
@dataclass(frozen=True)
class LAST(Method):
    """u_0 = z_0, u_i = v_i + LSA_i(v_i) with v_i = u_{i-1} + z_i; the last stream is u_L - (z_0 + ... + z_{L-1}).

    z_0 are the embedded tokens and z_i the output of frozen block i, through which no gradient goes. The subtraction
    leaves z_L + LSA_1 + ... + LSA_L, so the sums are kept apart and nothing is subtracted; the frozen final norm and
    the backbone's own pooling follow. There is no public code: the recursion is taken from summaries of the paper;
    the norm ahead of attention, the single head, O = 0 at the start, rank 16 and one attention for each block are
    choices made here. 4 r D L + 2 D L parameters; the published 0.66 M is not reproduced.
    """

    family: ClassVar[str] = "side"
    paper: ClassVar[str] = "arXiv:2402.04009"
    size_option: ClassVar[str] = "rank"
    faithfulness: ClassVar[str] = "details not published"

    rank: int = option(16, ge=1)

    def attach(self, backbone: Backbone) -> None:
        shape = backbone.shape
        if shape.family != "vit":
            raise NotApplicable(f"{self.name} sums the tokens of all blocks; those of {shape.family} differ in shape")
        for site in backbone.sites("block"):
            last = site.layer == shape.depth - 1
            step = AttentionStep(LowRankAttention(shape.width, self.rank), last)
            site.wrap(partial(SideBlock, step=step, last=last, detach=True))

    def expected_params(self, shape: BackboneShape) -> int:
        return shape.depth * (4 * self.rank * shape.width + 2 * shape.width)
