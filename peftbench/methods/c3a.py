"""C3A (Chen et al., arXiv:2407.19342): updates made of circulant blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.foundation.spec import option
from peftbench.interventions.rotation import largest_block
from peftbench.methods.base import METHODS
from peftbench.methods.targets import TARGETS, Matrix, Rewriting


class CirculantBlocks(nn.Module):
    """W -> W + C / in_dim; block (m, n) of C has the number at (i, j) that `kernels` [m, n, (j - i) mod size] gives.

    Circular convolutions of pieces of the input, which the released code runs through Fourier transforms; the matrix
    is formed instead, once for all tokens.
    """

    def __init__(self, in_dim: int, out_dim: int, size: int, init: str) -> None:
        super().__init__()
        kernels = torch.zeros(out_dim // size, in_dim // size, size)
        if init == "xavier":
            # fans of the whole matrix
            bound = math.sqrt(6 / (in_dim + out_dim))
            nn.init.uniform_(kernels, -bound, bound)
        self.kernels = nn.Parameter(kernels)

    def forward(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        numbers = torch.arange(self.kernels.shape[-1], device=self.kernels.device)
        blocks = self.kernels[..., (numbers - numbers.unsqueeze(1)) % len(numbers)]
        change = blocks.transpose(1, 2).flatten(2).flatten(0, 1)
        return weight + change / weight.shape[1], bias


@METHODS.add("c3a")
@dataclass(frozen=True)
class C3A(Rewriting):
    """W' = W + C / in with C of circulant blocks b x b: full rank from in out / b parameters for each matrix.

    b = `block_size`, or the largest size below it that cuts both widths. The kernels are drawn xavier-uniform as though
    they were the whole matrix, as released, so that the function changes by a little at the start; `init: zeros` leaves
    it. Folds exactly.
    """

    paper: ClassVar[str] = "arXiv:2407.19342"
    identity_at_init: ClassVar[bool] = False

    block_size: int = option(256, ge=1)
    init: str = option("xavier", choices=("xavier", "zeros"))
    targets: list[str] = option(["q", "v"], choices=TARGETS)

    def _block(self, in_dim: int, out_dim: int) -> int:
        return largest_block(math.gcd(in_dim, out_dim), self.block_size)

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        return CirculantBlocks(matrix.in_dim, matrix.out_dim, self._block(matrix.in_dim, matrix.out_dim), self.init)

    def size(self, in_dim: int, out_dim: int) -> int:
        return in_dim * out_dim // self._block(in_dim, out_dim)
