"""HTA (Dong et al., NeurIPS 2024, arXiv:2410.22952): scales between two Householder reflections, added to weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.foundation.spec import option
from peftbench.interventions import LowRank
from peftbench.methods.base import METHODS
from peftbench.methods.targets import TARGETS, Matrix, Targeted


class ReflectedScales(nn.Module):
    """x -> H_u D H_v x + B A x: reflections H_a = I - 2 a a^T / ||a||^2, D [out_dim, in_dim] with `scales` as diagonal.

    `left` u [out_dim] and `right` v [in_dim] are drawn from U(-1, 1) over the root of their length; `scales`
    [min(in_dim, out_dim)] and B are zero at the start. No matrix [out_dim, in_dim] is formed: with unit u and v,
    H_u D H_v = D - 2 u (D^T u)^T - 2 (D v - 2 (u^T D v) u) v^T.
    """

    def __init__(self, in_dim: int, out_dim: int, rank: int) -> None:
        super().__init__()
        self.left, self.right = (_drawn(size) for size in (out_dim, in_dim))
        self.scales = nn.Parameter(torch.zeros(min(in_dim, out_dim)))
        self.beside = LowRank(in_dim, out_dim, rank) if rank else None

    def forward(self, x: Tensor) -> Tensor:
        up, down = self._pairs()
        scaled = x[..., : len(self.scales)] * self.scales
        y = F.pad(scaled, (0, len(self.left) - len(self.scales))) + F.linear(F.linear(x, down), up)
        return y if self.beside is None else y + self.beside(x)

    def weight(self) -> Tensor:
        """The matrix [out_dim, in_dim] that this adds to the frozen one."""
        up, down = self._pairs()
        matrix = up @ down
        matrix.diagonal().add_(self.scales)
        return matrix if self.beside is None else matrix + self.beside.weight()

    def _pairs(self) -> tuple[Tensor, Tensor]:
        """Of H_u D H_v - D the factors [out_dim, 2] and [2, in_dim]."""
        u, v = (axis / torch.linalg.vector_norm(axis) for axis in (self.left, self.right))
        number = len(self.scales)
        forth = F.pad(self.scales * v[:number], (0, len(u) - number))
        back = F.pad(self.scales * u[:number], (0, len(v) - number))
        return torch.stack([-2 * u, 4 * (u @ forth) * u - 2 * forth], dim=1), torch.stack([back, v])


def _drawn(size: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(size).uniform_(-1, 1) / math.sqrt(size))


@METHODS.add("hta")
@dataclass(frozen=True)
class HTA(Targeted):
    """W' = W + H_u D H_v + B A: like a singular value decomposition whose unitary matrices are one reflection each.

    The scales D are free, layer by layer, so that the rank of the change is. in + out + min(in, out) + rank (in + out)
    parameters for each matrix; folds exactly. Known from the abstract are the form and that a vector makes each
    reflection. The paper prints 0.22 M (VTAB-1k) and 0.36 M (FGVC) parameters with heads on ViT-B/16 and 0.54 M on
    ViT-L/16, which four maps of attention with a change of `rank` 1 beside the reflections give.
    """

    paper: ClassVar[str] = "arXiv:2410.22952"
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "Made from the paper's abstract, with the places and the rank that give the numbers of parameters it prints; "
        "starts are chosen here."
    )

    rank: int = option(1, ge=0)
    targets: list[str] = option(["q", "k", "v", "proj"], choices=TARGETS)

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        return ReflectedScales(matrix.in_dim, matrix.out_dim, self.rank)

    def size(self, in_dim: int, out_dim: int) -> int:
        return in_dim + out_dim + min(in_dim, out_dim) + self.rank * (in_dim + out_dim)
