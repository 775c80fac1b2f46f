"""HRA (Yuan et al., NeurIPS 2024, arXiv:2405.17484): weights reflected on their input side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.foundation.spec import option
from peftbench.methods.base import METHODS
from peftbench.methods.targets import TARGETS, Matrix, Rewriting


class Reflections(nn.Module):
    """W -> W H_1 ... H_r with H_i = I - 2 u_i u_i^T / ||u_i||^2, the columns u_i of `axes` [in_dim, num_reflections].

    Two neighbouring columns start equal, so that their reflections cancel. One is drawn, kaiming-uniform with
    a = sqrt(5) as though half the columns were the whole tensor.
    """

    def __init__(self, in_dim: int, num_reflections: int) -> None:
        super().__init__()
        drawn = torch.empty(in_dim, num_reflections // 2)
        nn.init.kaiming_uniform_(drawn, a=math.sqrt(5))
        self.axes = nn.Parameter(drawn.repeat_interleave(2, dim=1))

    def forward(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        for axis in (self.axes / torch.linalg.vector_norm(self.axes, dim=0)).unbind(1):
            # one reflection at a time: no matrix [in_dim, in_dim] is ever formed
            weight = weight - 2 * torch.outer(weight @ axis, axis)
        return weight, bias


@METHODS.add("hra")
@dataclass(frozen=True)
class HRA(Rewriting):
    """W' = W H_1 H_2 ... H_r, Householder reflections H_i = I - 2 u_i u_i^T / ||u_i||^2.

    r = `rank` is even: the reflections start as equal pairs, which cancel, so the function is unchanged up to rounding.
    rank in parameters for each matrix; folds exactly. The weight of the paper's penalty on axes that are not
    orthogonal is 0 here (HRA with lambda = 0).
    """

    paper: ClassVar[str] = "arXiv:2405.17484"
    size_option: ClassVar[str] = "rank"

    rank: int = option(8, ge=2)
    targets: list[str] = option(["q", "v"], choices=TARGETS)

    def problems(self) -> Sequence[str]:
        odd = [f"method.rank must be even, as reflections start in pairs, got {self.rank}"] if self.rank % 2 else []
        return [*super().problems(), *odd]

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        return Reflections(matrix.in_dim, self.rank)

    def size(self, in_dim: int, out_dim: int) -> int:
        return self.rank * in_dim
