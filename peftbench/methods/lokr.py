"""LoKr (LyCORIS, Yeh et al., ICLR 2024, arXiv:2309.14859): a Kronecker product whose larger factor is of low rank."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.foundation.spec import option
from peftbench.interventions import Dropped, MatrixDelta
from peftbench.methods.base import METHODS
from peftbench.methods.targets import TARGETS, Dropping, Matrix


class KroneckerLowRank(MatrixDelta):
    """x -> scale * (C kron (U D)) x, or scale * (C kron B) x where the rank is no less than half of B's larger side.

    C [out_small, in_small] and B [out_large, in_large] have the sides of `sides`. With `both`, C is of low rank by the
    same rule, `small_up` [out_small, rank] times `small` [rank, in_small]. All factors are kaiming-uniform with
    a = sqrt(5), but for D, or B, which is zero.
    """

    def __init__(
        self, in_dim: int, out_dim: int, rank: int, scale: float, both: bool = False, dropped: Dropped | None = None
    ) -> None:
        super().__init__()
        (in_small, in_large), (out_small, out_large) = sides(in_dim), sides(out_dim)
        self.low, self.low_small = _low(rank, in_large, out_large), both and _low(rank, in_small, out_small)
        self.small = nn.Parameter(torch.empty(rank if self.low_small else out_small, in_small))
        if self.low_small:
            self.small_up = nn.Parameter(torch.empty(out_small, rank))
        if self.low:
            self.up = nn.Parameter(torch.empty(out_large, rank))
        self.down = nn.Parameter(torch.zeros(rank if self.low else out_large, in_large))
        drawn = [self.small, *([self.small_up] if self.low_small else []), *([self.up] if self.low else [])]
        for factor in drawn:
            nn.init.kaiming_uniform_(factor, a=math.sqrt(5))
        self.scale = scale
        self.dropped = dropped or self.dropped

    def weight(self) -> Tensor:
        small = self.small_up @ self.small if self.low_small else self.small
        return self.scale * torch.kron(small, self.up @ self.down if self.low else self.down)


def _low(rank: int, in_dim: int, out_dim: int) -> bool:
    """Whether a factor [out_dim, in_dim] is of low rank."""
    return rank < max(out_dim, in_dim) / 2


def sides(width: int) -> tuple[int, int]:
    """The smaller and the larger of the two factors of `width` that are nearest to its square root."""
    small = next(size for size in range(math.isqrt(width), 0, -1) if width % size == 0)
    return small, width // small


@METHODS.add("lokr")
@dataclass(frozen=True)
class LoKr(Dropping):
    """W' = W + s C kron (U D), s = alpha / rank, with the factors' sides nearest to the roots of in and out.

    C is whole, the larger factor of low rank (whole from half of its larger side on; rank then sets s alone). With
    `decompose_both` C is of low rank by the same rule. As in LyCORIS the larger factor starts at zero; the PEFT library
    zeroes C instead. s is as in that library also where both factors are whole; LyCORIS takes 1 there. The function is
    unchanged. Folds exactly.

    In training `module_dropout` is the probability that a matrix has no change in a pass, and `rank_dropout` that a row
    of the change, an output and no rank, is zero; both are drawn once for the whole batch. `rank_dropout_scale` divides
    what is left by the share of rows that are left, or is zero where none is (the libraries divide by zero). The
    PEFT library and LyCORIS draw alike. Merging takes no draw; LyCORIS' takes one of rows in a model in training. Both
    libraries skip a dropped matrix, so that its factors have no gradient and the optimiser passes them over; here their
    gradient is zero, and momentum and decay go on.
    """

    paper: ClassVar[str] = "arXiv:2309.14859"

    rank: int = option(8, ge=1)
    alpha: float = option(8.0, gt=0)
    targets: list[str] = option(["q", "v"], choices=TARGETS)
    decompose_both: bool = option(False, later=True)
    rank_dropout: float = option(0.0, ge=0, lt=1, later=True)
    module_dropout: float = option(0.0, ge=0, lt=1, later=True)
    rank_dropout_scale: bool = option(False, later=True)

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        scale = self.alpha / self.rank
        return KroneckerLowRank(matrix.in_dim, matrix.out_dim, self.rank, scale, self.decompose_both, self.dropped)

    def size(self, in_dim: int, out_dim: int) -> int:
        (in_small, in_large), (out_small, out_large) = sides(in_dim), sides(out_dim)
        small = self._factor(in_small, out_small) if self.decompose_both else out_small * in_small
        return small + self._factor(in_large, out_large)

    def _factor(self, in_dim: int, out_dim: int) -> int:
        low = _low(self.rank, in_dim, out_dim)
        return self.rank * (out_dim + in_dim) if low else out_dim * in_dim
