"""LoHa (FedPara, Hyeon-Woo et al., ICLR 2022, arXiv:2108.06098; LyCORIS, arXiv:2309.14859): two low-rank products."""

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


class HadamardProduct(MatrixDelta):
    """x -> scale * ((U_1 D_1) * (U_2 D_2)) x, the product of two matrices of low rank entry by entry.

    `ups` U [out_dim, rank] and `downs` D [rank, in_dim]. `init` `peft`: D_2 is zero, the others kaiming-uniform with
    a = sqrt(5); `lycoris`: U_2 is zero, U_1 normal with a deviation of 0.1, D_1 and D_2 with one of 1.
    """

    def __init__(
        self, in_dim: int, out_dim: int, rank: int, scale: float, init: str = "peft", dropped: Dropped | None = None
    ) -> None:
        super().__init__()
        self.ups = nn.ParameterList([torch.zeros(out_dim, rank) for _ in range(2)])
        self.downs = nn.ParameterList([torch.zeros(rank, in_dim) for _ in range(2)])
        if init == "peft":
            for factor in (self.ups[0], self.downs[0], self.ups[1]):
                nn.init.kaiming_uniform_(factor, a=math.sqrt(5))
        else:
            for factor, deviation in ((self.downs[0], 1.0), (self.ups[0], 0.1), (self.downs[1], 1.0)):
                nn.init.normal_(factor, std=deviation)
        self.scale = scale
        self.dropped = dropped or self.dropped

    def weight(self) -> Tensor:
        first, second = (up @ down for up, down in zip(self.ups, self.downs, strict=True))
        return self.scale * first * second


@METHODS.add("loha")
@dataclass(frozen=True)
class LoHa(Dropping):
    """W' = W + s (U_1 D_1) * (U_2 D_2) entry by entry, s = alpha / rank: up to rank^2 from 2 rank (in + out) numbers.

    One factor starts at zero, so the function is unchanged. Folds exactly. `init: peft` is the PEFT library's start, by
    default; with LyCORIS' own (`lycoris`) the first gradients are some hundred times as large.

    In training `module_dropout` is the probability that a matrix has no change in a pass, and `rank_dropout` that a row
    of the change, an output and no rank, is zero; both are drawn once for the whole batch. What is left is divided by
    the share of rows that are left, as in the PEFT library, or is zero where none is (the libraries divide by zero);
    without `rank_dropout_scale` nothing is divided, which is LyCORIS' default. Merging takes no draw; LyCORIS' takes
    one of rows in a model in training. Both libraries skip a dropped matrix, so that its factors have no gradient and
    the optimiser passes them over; here their gradient is zero, and momentum and decay go on.
    """

    paper: ClassVar[str] = "arXiv:2309.14859"
    size_option: ClassVar[str] = "rank"

    rank: int = option(8, ge=1)
    alpha: float = option(8.0, gt=0)
    targets: list[str] = option(["q", "v"], choices=TARGETS)
    init: str = option("peft", choices=("peft", "lycoris"), later=True)
    rank_dropout: float = option(0.0, ge=0, lt=1, later=True)
    module_dropout: float = option(0.0, ge=0, lt=1, later=True)
    rank_dropout_scale: bool = option(True, later=True)

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        scale = self.alpha / self.rank
        return HadamardProduct(matrix.in_dim, matrix.out_dim, self.rank, scale, self.init, self.dropped)

    def size(self, in_dim: int, out_dim: int) -> int:
        return 2 * self.rank * (in_dim + out_dim)
