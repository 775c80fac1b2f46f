"""LoHa (FedPara, Hyeon-Woo et al., ICLR 2022, arXiv:2108.06098; LyCORIS, arXiv:2309.14859): two low-rank products."""

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


class HadamardProduct(MatrixDelta):
    """x -> scale * ((U_1 D_1) * (U_2 D_2)) x, the product of two matrices of low rank entry by entry.

    `ups` U [out_dim, rank] and `downs` D [rank, in_dim] are kaiming-uniform with a = sqrt(5), D_2 is zero.
    """

    def __init__(self, in_dim: int, out_dim: int, rank: int, scale: float) -> None:
        super().__init__()
        self.ups = nn.ParameterList([torch.empty(out_dim, rank) for _ in range(2)])
        self.downs = nn.ParameterList([torch.empty(rank, in_dim), torch.zeros(rank, in_dim)])
        for factor in (self.ups[0], self.downs[0], self.ups[1]):
            nn.init.kaiming_uniform_(factor, a=math.sqrt(5))
        self.scale = scale

    def weight(self) -> Tensor:
        first, second = (up @ down for up, down in zip(self.ups, self.downs, strict=True))
        return self.scale * first * second


@METHODS.add("loha")
@dataclass(frozen=True)
class LoHa(Targeted):
    """W' = W + s (U_1 D_1) * (U_2 D_2) entry by entry, s = alpha / rank: up to rank^2 from 2 rank (in + out) numbers.

    The last factor starts at zero, so the function is unchanged. Folds exactly.
    """

    paper: ClassVar[str] = "arXiv:2309.14859"
    size_option: ClassVar[str] = "rank"

    rank: int = option(8, ge=1)
    alpha: float = option(8.0, gt=0)
    targets: list[str] = option(["q", "v"], choices=TARGETS)

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        return HadamardProduct(matrix.in_dim, matrix.out_dim, self.rank, self.alpha / self.rank)

    def size(self, in_dim: int, out_dim: int) -> int:
        return 2 * self.rank * (in_dim + out_dim)
