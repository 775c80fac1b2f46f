"""BEFT (arXiv:2509.15974): of all biases those of the values alone train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.foundation.spec import option
from peftbench.methods.base import METHODS
from peftbench.methods.targets import Matrix, Targeted


class Offset(nn.Module):
    """x -> `values` [out_dim], which start at zero: what a bias that trains has moved."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(out_dim))
        self.in_dim = in_dim

    def forward(self, x: Tensor) -> Tensor:
        return self.values

    def weight(self) -> Tensor:
        """The matrix [out_dim, in_dim] that this adds: none."""
        return self.values.new_zeros(len(self.values), self.in_dim)

    def offset(self) -> Tensor:
        """What this adds without input: [out_dim]."""
        return self.values


@METHODS.add("beft")
@dataclass(frozen=True)
class BEFT(Targeted):
    """The bias of the values in every block, L D on a plain ViT; `targets` may name that of the queries instead.

    Trained as an offset of the frozen bias, which is the same and gives one to maps that have none. A bias of the keys
    would change nothing, as softmax cancels it. Folds exactly.
    """

    family: ClassVar[str] = "selection"
    paper: ClassVar[str] = "arXiv:2509.15974"
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "Made for language models, where the paper looks for the bias to train and finds that of the values."
    )

    targets: list[str] = option(["v"], choices=("q", "v"))

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        return Offset(matrix.in_dim, matrix.out_dim)

    def size(self, in_dim: int, out_dim: int) -> int:
        return out_dim
