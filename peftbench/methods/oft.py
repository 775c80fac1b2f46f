"""OFT (Qiu et al., NeurIPS 2023, arXiv:2306.07280): weights rotated on their input side, block by block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.foundation.spec import option
from peftbench.interventions.rotation import (
    cayley,
    cayley_series,
    check_block_dropout,
    drawn_blocks,
    into_ball,
    largest_block,
    skew,
    unturned,
)
from peftbench.methods.base import METHODS
from peftbench.methods.targets import TARGETS, Matrix, Rewriting

EPS = 6e-5


class BlockRotation(nn.Module):
    """W -> W R with R block-diagonal; `values` [blocks, size (size - 1) / 2] are the triangles, zero at the start.

    `shared`: there is one triangle, for all blocks. `eps`: no Q is longer than eps / sqrt(triangles), None for no such
    limit. `dropout` is the share of blocks that are the identity in a pass of a training.
    """

    def __init__(
        self,
        in_dim: int,
        size: int,
        exact: bool,
        shared: bool = False,
        eps: float | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(1 if shared else in_dim // size, size * (size - 1) // 2))
        self.size, self.exact, self.dropout = size, exact, dropout
        self.radius = None if eps is None else eps / math.sqrt(len(self.values))

    def _triangles(self) -> Tensor:
        """`values`, within the ball if there is one; the gradient is that of what is within, unchanged."""
        if self.radius is None:
            return self.values
        inside = into_ball(self.values.detach(), self.radius)
        if self.training:
            # so that the next step starts from the ball; evaluation leaves what trains alone
            with torch.no_grad():
                self.values.copy_(inside)
        return inside + (self.values - self.values.detach())

    def forward(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        q = skew(self._triangles(), self.size)
        # the series is that of the transpose, as released with it
        rotation = cayley(q) if self.exact else cayley_series(-q)
        if self.training and self.dropout:
            rotation = unturned(rotation, drawn_blocks(len(rotation), self.dropout, rotation.device))
        blocks = weight.unflatten(1, (-1, self.size))
        return torch.einsum("onk,nkc->onc", blocks, rotation.expand(blocks.shape[1], -1, -1)).flatten(1), bias


@METHODS.add("oft")
@dataclass(frozen=True)
class OFT(Rewriting):
    """W' = W R, R = diag(R_1, ...) with blocks R_i = (I + Q_i)(I - Q_i)^-1, Q_i skew-symmetric.

    Q starts at zero. in (b - 1) / 2 parameters for each matrix with blocks of b = `block_size`, or of the largest size
    below it that divides the width; with `block_share` the blocks of a matrix are one, (b (b - 1)) / 2 parameters.
    Biases stay; folds exactly.

    `cayley: series` is OFTv2's cheap form (arXiv:2506.19847), I + 2 Q + 2 Q^2 + 2 Q^3 + Q^4, that the PEFT library
    takes by default. It turns the other way, so that tensors of one form are not those of the other, and is no rotation
    any more once entries of Q reach about 0.1.

    `coft` is the paper's constrained form as the PEFT library has it: ahead of each pass of a training every Q whose
    Frobenius norm exceeds `eps` / sqrt(blocks) (`eps` itself with `block_share`) is put back onto that ball around
    zero, in place, and gradients are those at what was put back. The authors' code has eps b^2 in the place of eps. In
    evaluation and for folding Q is taken as though it had been put back.

    `block_dropout`: in each pass of a training int(`block_dropout` blocks) blocks of each matrix, drawn anew, do not
    turn, nothing is rescaled. The PEFT library calls it `module_dropout`, and makes the layer for it without calling
    it as of 0.21, so that it has no effect there.
    """

    paper: ClassVar[str] = "arXiv:2306.07280"
    size_option: ClassVar[str] = "block_size"

    block_size: int = option(32, ge=2)
    cayley: str = option("exact", choices=("exact", "series"))
    targets: list[str] = option(["q", "v"], choices=TARGETS)
    block_share: bool = option(False, later=True)
    coft: bool = option(False, later=True)
    eps: float = option(EPS, gt=0, later=True)
    block_dropout: float = option(0.0, ge=0, lt=1, later=True)

    def problems(self) -> Sequence[str]:
        found = list(super().problems())
        if self.eps != EPS and not self.coft:
            found.append("method.eps bounds what method.coft=true constrains")
        if self.block_dropout and self.block_share:
            found.append("method.block_dropout leaves single blocks out; with method.block_share there is one")
        return found

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        size = largest_block(matrix.in_dim, self.block_size)
        check_block_dropout(self.block_dropout, matrix.in_dim // size)
        eps = self.eps if self.coft else None
        exact = self.cayley == "exact"
        return BlockRotation(matrix.in_dim, size, exact, self.block_share, eps, self.block_dropout)

    def size(self, in_dim: int, out_dim: int) -> int:
        size = largest_block(in_dim, self.block_size)
        return (size if self.block_share else in_dim) * (size - 1) // 2
