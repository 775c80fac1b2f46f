"""HiRA (Huang et al., ICLR 2025): a low-rank factor on every entry of the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from peftbench.foundation.spec import option
from peftbench.interventions import LowRank, Rewritten
from peftbench.methods.base import METHODS
from peftbench.methods.targets import TARGETS, Matrix, Targeted


class EntryScale(nn.Module):
    """W -> W + W * (B A) entry by entry, with the pair of LoRA."""

    def __init__(self, in_dim: int, out_dim: int, rank: int) -> None:
        super().__init__()
        self.pair = LowRank(in_dim, out_dim, rank)

    def forward(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return weight + weight * self.pair.weight(), bias


@METHODS.add("hira")
@dataclass(frozen=True)
class HiRA(Targeted):
    """W' = W + W * (B A) entry by entry: an update whose rank is not bound by that of B A.

    A [rank, in] and B [out, rank] start as LoRA's: the function is unchanged. rank (in + out) parameters for a matrix;
    folds exactly. `dropout` acts on the input of what is added to the frozen path.
    """

    paper: ClassVar[str] = "ICLR 2025"
    size_option: ClassVar[str] = "rank"

    rank: int = option(32, ge=1)
    dropout: float = option(0.0, ge=0, lt=1)
    targets: list[str] = option(["q", "v"], choices=TARGETS)

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        return EntryScale(matrix.in_dim, matrix.out_dim, self.rank)

    def act(self, base: nn.Module, modules: dict[int, nn.Module], num_slices: int) -> nn.Module:
        return Rewritten(base, modules, num_slices, self.dropout)

    def size(self, in_dim: int, out_dim: int) -> int:
        return self.rank * (in_dim + out_dim)
