"""TinyLoRA (arXiv:2602.04118): a few numbers that mix fixed random matrices between frozen singular vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone
from peftbench.foundation.spec import option
from peftbench.interventions import FrozenEnds, made_again
from peftbench.methods.base import METHODS
from peftbench.methods.targets import TARGETS, Matrix, Targeted, singular_triples


class MixedCore(FrozenEnds):
    """x -> B (sum_i v_i P_i) A dropout(x): `mix` v [number], zero at first, frozen `parts` P [number, rank, rank]."""

    parts: Tensor

    def __init__(self, down: Tensor, up: Tensor, parts: Tensor, dropout: float) -> None:
        super().__init__(down, up, dropout=dropout)
        made_again(self, "parts", parts)
        self.mix = nn.Parameter(torch.zeros(len(parts)))

    def core(self) -> Tensor:
        return torch.einsum("i,ijk->jk", self.mix, self.parts)


@METHODS.add("tinylora")
@dataclass(frozen=True)
class TinyLoRA(Targeted):
    """W' = W + U_r S_r^1/2 R S_r^1/2 V_r^T, R = sum_i v_i P_i with u = `num_mixed` trained numbers v for each matrix.

    The P_i [r, r] are fixed draws from N(0, 1 / r), as the PEFT library has them (the paper names no distribution), the
    m-th matrix's from `parts_seed` + m. v starts at zero: the function is unchanged. u parameters for each matrix,
    none shared between matrices; folds exactly.
    """

    paper: ClassVar[str] = "arXiv:2602.04118"
    size_option: ClassVar[str] = "num_mixed"

    rank: int = option(2, ge=1)
    num_mixed: int = option(64, ge=1)
    dropout: float = option(0.0, ge=0, lt=1)
    parts_seed: int = option(42, ge=0)
    targets: list[str] = option(["q", "v"], choices=TARGETS)

    def prepare(self, backbone: Backbone) -> list[int]:
        """Seeds still to be used, last one first."""
        matrices = len(list(self.matrices(backbone.shape)))
        return [self.parts_seed + number for number in reversed(range(matrices))]

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        u, s, vt = singular_triples(matrix.weight, self.rank)
        root, generator = s.sqrt(), torch.Generator().manual_seed(common.pop())
        shape = (self.num_mixed, len(s), len(s))
        parts = torch.normal(0.0, 1 / math.sqrt(len(s)), shape, generator=generator, device="cpu")
        return MixedCore(root.unsqueeze(1) * vt, u * root, parts.to(matrix.weight.device), self.dropout)

    def size(self, in_dim: int, out_dim: int) -> int:
        return self.num_mixed
