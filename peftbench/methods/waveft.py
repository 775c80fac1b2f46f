"""WaveFT (Bilican et al., arXiv:2505.12532): an update with few wavelet coefficients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.foundation.spec import option
from peftbench.interventions import SparseChange
from peftbench.methods.base import METHODS
from peftbench.methods.targets import TARGETS, Matrix, Rewriting, random_places


class HaarCoefficients(SparseChange):
    """W -> W + scale * IDWT2(S): the quarters of S are one level of Haar coefficients, an odd side gets one more zero.

    Top left the means; top right what changes from row to row, bottom left from column to column, bottom right both.
    """

    def transform(self, dense: Tensor) -> Tensor:
        rows, columns = dense.shape
        dense = F.pad(dense, (0, columns % 2, 0, rows % 2))
        top, bottom = dense.chunk(2)
        (mean, by_row), (by_column, both) = top.chunk(2, dim=1), bottom.chunk(2, dim=1)
        even = torch.stack([mean + by_row + by_column + both, mean + by_row - by_column - both], dim=-1)
        odd = torch.stack([mean - by_row + by_column - both, mean - by_row - by_column + both], dim=-1)
        whole = 0.5 * torch.stack([even.flatten(1), odd.flatten(1)], dim=1).flatten(0, 1)
        return whole[:rows, :columns]


@METHODS.add("waveft")
@dataclass(frozen=True)
class WaveFT(Rewriting):
    """W' = W + scale * IDWT2(S), the inverse Haar transform of S, zero but for n = `num_coefficients` trained numbers.

    Their places are random, one draw from `places_seed` for all matrices of one shape; they start at zero: the function
    is unchanged. n parameters for each matrix, or all of its entries where it has fewer. Folds exactly.
    """

    paper: ClassVar[str] = "arXiv:2505.12532"
    size_option: ClassVar[str] = "num_coefficients"

    num_coefficients: int = option(2592, ge=1)
    scale: float = option(25.0, gt=0)
    places_seed: int = option(777, ge=0)
    targets: list[str] = option(["q", "v"], choices=TARGETS)

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        number = self.size(matrix.in_dim, matrix.out_dim)
        places = random_places(matrix, number, torch.Generator().manual_seed(self.places_seed))
        return HaarCoefficients(matrix.weight.shape, places, torch.zeros(number), self.scale)

    def size(self, in_dim: int, out_dim: int) -> int:
        return min(self.num_coefficients, in_dim * out_dim)
