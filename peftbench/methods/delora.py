"""DeLoRA (Bini et al., ICLR 2025, arXiv:2503.18225): a low-rank update of bounded length."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.foundation.spec import option
from peftbench.methods.base import METHODS
from peftbench.methods.targets import TARGETS, Matrix, Targeted

# no direction is divided by less
SHORTEST = 1e-4


class BoundedLowRank(nn.Module):
    """x -> B diag(bound / (rank ||b_i|| ||a_i||)) A (n * dropout(x)), rows a_i of A and columns b_i of B.

    n [in_dim] are the lengths of the frozen columns. `down` A [rank, in_dim] is kaiming-uniform with a = sqrt(5), `up`
    B [out_dim, rank] zero, `bound` one number.
    """

    lengths: Tensor

    def __init__(self, weight: Tensor, rank: int, bound: float, dropout: float) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, weight.shape[1]))
        self.up = nn.Parameter(torch.zeros(len(weight), rank))
        self.bound = nn.Parameter(torch.tensor([bound]))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        lengths = torch.linalg.vector_norm(weight.detach(), dim=0)
        self.register_buffer("lengths", lengths, persistent=False)
        self.dropout = nn.Dropout(dropout)

    def _strengths(self) -> Tensor:
        a, b = (torch.linalg.vector_norm(t, dim=d).clamp(min=SHORTEST) for t, d in ((self.down, 1), (self.up, 0)))
        return self.bound / len(self.down) / (a * b)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(self.dropout(x) * self.lengths, self.down) * self._strengths(), self.up)

    def weight(self) -> Tensor:
        """The matrix [out_dim, in_dim] that this adds to the frozen one."""
        return (self.up * self._strengths()) @ self.down * self.lengths


@METHODS.add("delora")
@dataclass(frozen=True)
class DeLoRA(Targeted):
    """W' = W + (lambda / rank) sum_i b_i a_i / (||b_i|| ||a_i||) diag(n), n the lengths of the columns of W.

    Each of the `rank` terms has one length, lambda / rank, whatever its factors grow to; lambda trains, one for each
    matrix, from `bound`. B starts at zero: the function is unchanged. rank (in + out) + 1 parameters; folds exactly.
    """

    paper: ClassVar[str] = "arXiv:2503.18225"
    size_option: ClassVar[str] = "rank"

    rank: int = option(8, ge=1)
    bound: float = option(15.0, gt=0)
    dropout: float = option(0.0, ge=0, lt=1)
    targets: list[str] = option(["q", "v"], choices=TARGETS)

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        return BoundedLowRank(matrix.weight, self.rank, self.bound, self.dropout)

    def size(self, in_dim: int, out_dim: int) -> int:
        return self.rank * (in_dim + out_dim) + 1
