"""LoRA-XS (Balazy et al., arXiv:2405.17604): a small matrix between frozen singular vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.foundation.spec import option
from peftbench.interventions import FrozenEnds
from peftbench.methods.base import METHODS
from peftbench.methods.targets import TARGETS, Matrix, Targeted, singular_triples


class SmallCore(FrozenEnds):
    """x -> scale * B R A dropout(x) with frozen A and B and `between` R [rank, rank] drawn from N(0, std)."""

    def __init__(self, down: Tensor, up: Tensor, scale: float, std: float, dropout: float) -> None:
        super().__init__(down, up, scale, dropout)
        self.between = nn.Parameter(torch.normal(0.0, std, (len(down), len(down))))

    def core(self) -> Tensor:
        return self.between


@METHODS.add("lora_xs")
@dataclass(frozen=True)
class LoRAXS(Targeted):
    """W' = W + s U_r R S_r V_r^T with the r largest singular triples of W frozen, s = alpha / rank.

    The singular values go with A = S_r V_r^T [rank, in], as released; the paper writes them on the other side. R [rank,
    rank] is drawn from N(0, `init_std`), so that the function changes by that little at the start. rank^2 parameters
    for each matrix; folds exactly.
    """

    paper: ClassVar[str] = "arXiv:2405.17604"
    identity_at_init: ClassVar[bool] = False
    size_option: ClassVar[str] = "rank"

    rank: int = option(16, ge=1)
    alpha: float = option(16.0, gt=0)
    init_std: float = option(1e-5, gt=0)
    dropout: float = option(0.0, ge=0, lt=1)
    targets: list[str] = option(["q", "v"], choices=TARGETS)

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        u, s, vt = singular_triples(matrix.weight, self.rank)
        return SmallCore(s.unsqueeze(1) * vt, u, self.alpha / self.rank, self.init_std, self.dropout)

    def size(self, in_dim: int, out_dim: int) -> int:
        return min(self.rank, in_dim, out_dim) ** 2
