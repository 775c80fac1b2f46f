"""OFT (Qiu et al., NeurIPS 2023, arXiv:2306.07280): weights rotated on their input side, block by block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.foundation.spec import option
from peftbench.interventions.rotation import cayley, cayley_series, largest_block, skew
from peftbench.methods.base import METHODS
from peftbench.methods.targets import TARGETS, Matrix, Rewriting


class BlockRotation(nn.Module):
    """W -> W R with R block-diagonal; `values` [blocks, size (size - 1) / 2] are the triangles, zero at the start.

    `shared`: there is one triangle, for all blocks.
    """

    def __init__(self, in_dim: int, size: int, exact: bool, shared: bool = False) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(1 if shared else in_dim // size, size * (size - 1) // 2))
        self.size, self.exact = size, exact

    def forward(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        q = skew(self.values, self.size)
        # the series is that of the transpose, as released with it
        rotation = cayley(q) if self.exact else cayley_series(-q)
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
    """

    paper: ClassVar[str] = "arXiv:2306.07280"
    size_option: ClassVar[str] = "block_size"

    block_size: int = option(32, ge=2)
    cayley: str = option("exact", choices=("exact", "series"))
    targets: list[str] = option(["q", "v"], choices=TARGETS)
    block_share: bool = option(False, later=True)

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        size = largest_block(matrix.in_dim, self.block_size)
        return BlockRotation(matrix.in_dim, size, self.cayley == "exact", self.block_share)

    def size(self, in_dim: int, out_dim: int) -> int:
        size = largest_block(in_dim, self.block_size)
        return (size if self.block_share else in_dim) * (size - 1) // 2
