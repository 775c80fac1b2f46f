"""DoRA (Liu et al., ICML 2024, arXiv:2402.09353): the rows of W + s B A trained as direction and length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.foundation.spec import option
from peftbench.interventions import LowRank, Rewritten
from peftbench.methods.base import METHODS
from peftbench.methods.targets import TARGETS, Matrix, Targeted


class Magnitude(nn.Module):
    """W -> m (W + s B A) / ||W + s B A|| row by row, `magnitude` m [out_dim] from the rows of W.

    The norm is a constant to the gradient (section 4.3).
    """

    def __init__(self, pair: LowRank, weight: Tensor) -> None:
        super().__init__()
        self.pair = pair
        self.magnitude = nn.Parameter(torch.linalg.vector_norm(weight.detach(), dim=1))

    def forward(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        direction = weight + self.pair.weight()
        norm = torch.linalg.vector_norm(direction.detach(), dim=1)
        return (self.magnitude / norm).unsqueeze(1) * direction, bias


@METHODS.add("dora")
@dataclass(frozen=True)
class DoRA(Targeted):
    """W' = m (W + s B A) / ||W + s B A||, norm and m for each output, s = alpha / rank (equation 5).

    A [rank, in] and B [out, rank] start as LoRA's, m [out] at the norms of W: the function is unchanged. Biases stay
    outside. rank (in + out) + out parameters for each matrix; folds exactly. `dropout` acts on the input of what is
    added to the frozen path, with one mask for q, k and v, where the released code draws one for each.
    """

    paper: ClassVar[str] = "arXiv:2402.09353"
    size_option: ClassVar[str] = "rank"

    rank: int = option(8, ge=1)
    alpha: float = option(8.0, gt=0)
    dropout: float = option(0.0, ge=0, lt=1)
    targets: list[str] = option(["q", "v"], choices=TARGETS)

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        return Magnitude(LowRank(matrix.in_dim, matrix.out_dim, self.rank, self.alpha / self.rank), matrix.weight)

    def act(self, base: nn.Module, modules: dict[int, nn.Module], num_slices: int) -> nn.Module:
        return Rewritten(base, modules, num_slices, self.dropout)

    def size(self, in_dim: int, out_dim: int) -> int:
        return self.rank * (in_dim + out_dim) + out_dim
