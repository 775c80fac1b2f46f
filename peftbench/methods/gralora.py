"""GraLoRA (Jung et al., arXiv:2505.20355): a low-rank update of its own for each block of a matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.methods.base import METHODS
from peftbench.methods.targets import TARGETS, Matrix, Targeted


class BlockwiseLowRank(nn.Module):
    """x -> scale * sum over pieces: block (m, n) of k x k is B_mn A_mn of rank / k.

    `downs` A [k, in_dim / k, rank]: piece n of the input gives rank numbers, of which the m-th part of rank / k goes to
    output piece m; `ups` B [k, rank, out_dim / k], zero at the start.
    """

    def __init__(self, in_dim: int, out_dim: int, rank: int, blocks: int, scale: float, dropout: float) -> None:
        super().__init__()
        downs = torch.empty(blocks, rank, in_dim // blocks)
        for down in downs:
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))
        self.downs = nn.Parameter(downs.transpose(1, 2).contiguous())
        self.ups = nn.Parameter(torch.zeros(blocks, rank, out_dim // blocks))
        self.scale = scale
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        blocks = len(self.downs)
        pieces = self.dropout(x).unflatten(-1, (blocks, -1))
        codes = torch.einsum("...ni,nir->...nr", pieces, self.downs).unflatten(-1, (blocks, -1))
        outputs = torch.einsum("...mr,mro->...mo", codes.transpose(-3, -2).flatten(-2), self.ups)
        return self.scale * outputs.flatten(-2)

    def weight(self) -> Tensor:
        """The matrix [out_dim, in_dim] that this adds to the frozen one."""
        blocks = len(self.downs)
        downs = self.downs.unflatten(-1, (blocks, -1))
        ups = self.ups.unflatten(1, (blocks, -1))
        return self.scale * torch.einsum("nimr,mnro->moni", downs, ups).flatten(2).flatten(0, 1)


@METHODS.add("gralora")
@dataclass(frozen=True)
class GraLoRA(Targeted):
    """W' = W + s [B_mn A_mn], k x k blocks of rank `rank` / k each, s = alpha / rank: rank k at LoRA's count.

    k = `num_blocks` cuts both widths (else `NotApplicable`) and the rank. The second factors start at zero: the
    function is unchanged. rank (in + out) parameters for each matrix; folds exactly.
    """

    paper: ClassVar[str] = "arXiv:2505.20355"
    size_option: ClassVar[str] = "rank"

    rank: int = option(32, ge=1)
    alpha: float = option(64.0, gt=0)
    num_blocks: int = option(2, ge=1)
    dropout: float = option(0.0, ge=0, lt=1)
    targets: list[str] = option(["q", "v"], choices=TARGETS)

    def problems(self) -> Sequence[str]:
        uneven = self.rank % self.num_blocks
        message = f"method.rank = {self.rank} must be a multiple of method.num_blocks = {self.num_blocks}"
        return [*super().problems(), *([message] if uneven else [])]

    def prepare(self, backbone: Backbone) -> None:
        for width in {width for widths in self.matrices(backbone.shape) for width in widths}:
            if width % self.num_blocks:
                raise NotApplicable(f"method.num_blocks = {self.num_blocks} does not cut a width of {width}")

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        return BlockwiseLowRank(
            matrix.in_dim, matrix.out_dim, self.rank, self.num_blocks, self.alpha / self.rank, self.dropout
        )

    def size(self, in_dim: int, out_dim: int) -> int:
        return self.rank * (in_dim + out_dim)
