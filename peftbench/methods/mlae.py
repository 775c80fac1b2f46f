"""MLAE (Wang et al., arXiv:2405.18897): a low-rank update as experts of rank one, some of them masked in training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.foundation.spec import option
from peftbench.methods.base import METHODS
from peftbench.methods.targets import FUSED_TARGETS, Matrix, Targeted


class MaskedExperts(nn.Module):
    """x -> sum_i m_i lambda_i b_i (a_i . x) with one mask m for the whole batch, drawn in training at every pass.

    `down` [experts, in_dim] is kaiming-uniform with a = sqrt(5), `up` [experts, out_dim] zero, `strengths` lambda
    [experts] start at `strength`. Kept experts are divided by the probability that they are kept.
    """

    def __init__(self, in_dim: int, out_dim: int, num_experts: int, strength: float, expert_dropout: float) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(num_experts, in_dim))
        self.up = nn.Parameter(torch.zeros(num_experts, out_dim))
        self.strengths = nn.Parameter(torch.full((num_experts,), strength))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        self.expert_dropout = nn.Dropout(expert_dropout)

    def forward(self, x: Tensor) -> Tensor:
        return (F.linear(x, self.down) * self.expert_dropout(self.strengths)) @ self.up

    def weight(self) -> Tensor:
        """The matrix [out_dim, in_dim] that all experts together add to the frozen one."""
        return (self.up * self.strengths.unsqueeze(1)).T @ self.down


@METHODS.add("mlae")
@dataclass(frozen=True)
class MLAE(Targeted):
    """W' = W + sum_i lambda_i b_i a_i^T, each expert i masked with probability `expert_dropout` in training.

    rank (in + out) + rank parameters for each matrix; b starts at zero, so the function is unchanged. Folds exactly.
    The release is one layer: places, rank, rate and share of masked experts of the published runs are not in it, and
    the share here is a choice of this project.
    """

    paper: ClassVar[str] = "arXiv:2405.18897"
    faithfulness: ClassVar[str] = "details not published"
    size_option: ClassVar[str] = "rank"

    rank: int = option(8, ge=1)
    strength: float = option(1.0, gt=0)
    expert_dropout: float = option(0.5, ge=0, lt=1)
    targets: list[str] = option(list(FUSED_TARGETS), choices=FUSED_TARGETS)

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        return MaskedExperts(matrix.in_dim, matrix.out_dim, self.rank, self.strength, self.expert_dropout)

    def size(self, in_dim: int, out_dim: int) -> int:
        return self.rank * (in_dim + out_dim) + self.rank
