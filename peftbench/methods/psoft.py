"""PSOFT (Wu et al., ICLR 2026, arXiv:2505.11235): a rotation inside the subspace of the largest singular values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.foundation.spec import option
from peftbench.interventions import FrozenEnds
from peftbench.interventions.rotation import cayley, skew
from peftbench.methods.base import METHODS
from peftbench.methods.targets import TARGETS, Matrix, Targeted, singular_triples


class TurnedSubspace(FrozenEnds):
    """x -> B (diag(b) R diag(a) - I) A dropout(x) with frozen A = V_r^T [rank, in_dim] and B = U_r S_r [out_dim, rank].

    R = (I + Q)(I - Q)^-1; the triangle of Q `values` [rank (rank - 1) / 2] starts at zero, `outer` b and `inner` a
    [rank] at one.
    """

    def __init__(self, down: Tensor, up: Tensor, dropout: float) -> None:
        super().__init__(down, up, dropout=dropout)
        rank = len(down)
        self.values = nn.Parameter(torch.zeros(rank * (rank - 1) // 2))
        self.outer, self.inner = (nn.Parameter(torch.ones(rank)) for _ in range(2))

    def core(self) -> Tensor:
        rank = len(self.inner)
        with torch.autocast(self.values.device.type, enabled=False):
            rotation = cayley(skew(self.values, rank))
            identity = torch.eye(rank, dtype=rotation.dtype, device=rotation.device)
            return self.outer.unsqueeze(1) * rotation * self.inner - identity


@METHODS.add("psoft")
@dataclass(frozen=True)
class PSOFT(Targeted):
    """W' = W_res + B diag(b) R diag(a) A with B A = U_r S_r V_r^T of W, R orthogonal.

    A = V_r^T and B = U_r S_r are frozen and made anew from W, R and the vectors a and b start at identity and one: the
    function is unchanged. r (r - 1) / 2 + 2 r parameters for each matrix, r = `rank`, or the rank of the matrix where
    that is less. Folds exactly.
    """

    paper: ClassVar[str] = "arXiv:2505.11235"
    size_option: ClassVar[str] = "rank"

    rank: int = option(46, ge=2)
    dropout: float = option(0.1, ge=0, lt=1)
    targets: list[str] = option(list(TARGETS), choices=TARGETS)

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        u, s, vt = singular_triples(matrix.weight, self.rank)
        return TurnedSubspace(vt, u * s, self.dropout)

    def size(self, in_dim: int, out_dim: int) -> int:
        rank = min(self.rank, in_dim, out_dim)
        return rank * (rank - 1) // 2 + 2 * rank
