"""LoKr (LyCORIS, Yeh et al., ICLR 2024, arXiv:2309.14859): a Kronecker product whose larger factor is of low rank."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.foundation.spec import option
from peftbench.interventions import MatrixDelta
from peftbench.methods.base import METHODS
from peftbench.methods.targets import TARGETS, Matrix, Targeted


class KroneckerLowRank(MatrixDelta):
    """x -> scale * (C kron (U D)) x, or scale * (C kron B) x where the rank is no less than half of B's larger side.

    C [out_small, in_small] and B [out_large, in_large] have the sides of `sides`. C and U are kaiming-uniform with
    a = sqrt(5); D, or B, is zero.
    """

    def __init__(self, in_dim: int, out_dim: int, rank: int, scale: float) -> None:
        super().__init__()
        (in_small, in_large), (out_small, out_large) = sides(in_dim), sides(out_dim)
        self.small = nn.Parameter(torch.empty(out_small, in_small))
        low = rank < max(out_large, in_large) / 2
        if low:
            self.up = nn.Parameter(torch.empty(out_large, rank))
        self.down = nn.Parameter(torch.zeros(rank if low else out_large, in_large))
        for factor in (self.small, *([self.up] if low else [])):
            nn.init.kaiming_uniform_(factor, a=math.sqrt(5))
        self.low, self.scale = low, scale

    def weight(self) -> Tensor:
        return self.scale * torch.kron(self.small, self.up @ self.down if self.low else self.down)


def sides(width: int) -> tuple[int, int]:
    """The smaller and the larger of the two factors of `width` that are nearest to its square root."""
    small = next(size for size in range(math.isqrt(width), 0, -1) if width % size == 0)
    return small, width // small


@METHODS.add("lokr")
@dataclass(frozen=True)
class LoKr(Targeted):
    """W' = W + s C kron (U D), s = alpha / rank, with the factors' sides nearest to the roots of in and out.

    C is whole, the larger factor of low rank (whole from half of its larger side on; rank then sets s alone). As in
    LyCORIS the larger factor starts at zero; the PEFT library zeroes C instead. The function is unchanged. Folds
    exactly.
    """

    paper: ClassVar[str] = "arXiv:2309.14859"

    rank: int = option(8, ge=1)
    alpha: float = option(8.0, gt=0)
    targets: list[str] = option(["q", "v"], choices=TARGETS)

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        return KroneckerLowRank(matrix.in_dim, matrix.out_dim, self.rank, self.alpha / self.rank)

    def size(self, in_dim: int, out_dim: int) -> int:
        (in_small, in_large), (out_small, out_large) = sides(in_dim), sides(out_dim)
        low = self.rank < max(out_large, in_large) / 2
        return out_small * in_small + (self.rank * (out_large + in_large) if low else out_large * in_large)
