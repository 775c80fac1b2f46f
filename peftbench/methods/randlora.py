"""RandLoRA (Albert et al., ICLR 2025, arXiv:2502.00987): a full-rank update as a sum of scaled random products."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone
from peftbench.foundation.spec import option
from peftbench.interventions import MatrixDelta, made_again, refer, share
from peftbench.methods.base import METHODS
from peftbench.methods.targets import TARGETS, Matrix, Targeted

BASES = ("uniform", "sparse", "very_sparse")


class RandomBases(nn.Module):
    """The frozen pair for the whole network: `small` A [rank, 1, least] and `large` B [most, bases, rank].

    Of unit standard deviation each, drawn one after the other from a generator of their own on the CPU, so that a seed
    stands for them in an adapter file. `uniform` bases are kaiming-uniform draws; the sparse kinds have entries -1, 0
    and 1, the last two rarer the sparser.
    """

    small: Tensor
    large: Tensor

    def __init__(self, least: int, most: int, rank: int, kind: str, seed: int, device: torch.device) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        bases = math.ceil(least / rank)
        if kind == "uniform":
            small = _uniform((rank, 1, least), generator)
            large = torch.cat([_uniform((most, 1, rank), generator) for _ in range(bases)], dim=1)
        else:
            sparsity = 3 if kind == "sparse" else math.sqrt(least)
            small = _signs((rank, 1, least), sparsity, generator)
            large = _signs((most, bases, rank), sparsity, generator)
        for name, drawn in (("small", small), ("large", large)):
            made_again(self, name, (drawn / drawn.std()).to(device))


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    drawn = torch.empty(shape, device="cpu")
    return nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)


def _signs(shape: tuple[int, ...], sparsity: float, generator: torch.Generator) -> Tensor:
    """-1 and 1 with probability 1 / (2 sparsity) each, else 0."""
    drawn, share_of_one = torch.rand(shape, generator=generator, device="cpu"), 1 / (2 * sparsity)
    return (drawn > 1 - share_of_one).float() - (drawn < share_of_one).float()


class ScaledBases(MatrixDelta):
    """x -> scale * D dropout(x) with D = [B_1 ... B_n] A', A' the rows lambda * A * gamma; D^T on narrowing maps.

    `factors` lambda [rank, bases] starts at zero, `columns` gamma [bases, least] at one over its longer side. Column
    (i, r) of B meets row number i rank + r of A' counted base by base within each r, as released.
    """

    bases: RandomBases

    def __init__(self, matrix: Matrix, bases: RandomBases, rank: int, scale: float, dropout: float) -> None:
        super().__init__()
        refer(self, "bases", bases)
        self.least, self.most = sorted((matrix.in_dim, matrix.out_dim))
        self.narrows = matrix.out_dim < matrix.in_dim
        number = math.ceil(self.least / rank)
        self.factors = nn.Parameter(torch.zeros(rank, number))
        self.columns = nn.Parameter(torch.full((number, self.least), 1 / max(number, self.least)))
        self.scale = scale
        self.dropout = nn.Dropout(dropout)

    def weight(self) -> Tensor:
        """The matrix [out_dim, in_dim] that this adds to the frozen one."""
        rows = self.factors.unsqueeze(-1) * self.bases.small[..., : self.least] * self.columns
        columns = self.bases.large[: self.most, : self.factors.shape[1]].flatten(1)
        change = self.scale * columns @ rows.flatten(0, 1)
        return change.T if self.narrows else change

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.dropout(x), self.weight())


@METHODS.add("randlora")
@dataclass(frozen=True)
class RandLoRA(Targeted):
    """W' = W + s sum_i B_i diag(lambda_i) A diag(gamma_i), s = alpha / rank, over n = ceil(min(in, out) / rank) bases.

    A and the B_i are frozen and random, one set for the network; only their scales train, so the update has full rank.
    rank n + n min(in, out) parameters for each matrix: fewer the larger the rank. lambda starts at zero: the function
    is unchanged. Folds exactly. `bases_seed` stands for A and B, which are not saved; a further target may change how
    many are drawn.
    """

    paper: ClassVar[str] = "arXiv:2502.00987"

    rank: int = option(32, ge=1)
    alpha: float = option(640.0, gt=0)
    dropout: float = option(0.0, ge=0, lt=1)
    bases: str = option("uniform", choices=BASES)
    bases_seed: int = option(0, ge=0)
    targets: list[str] = option(["q", "v"], choices=TARGETS)

    def prepare(self, backbone: Backbone) -> RandomBases:
        widths = list(self.matrices(backbone.shape))
        least, most = sorted(max(sizes) for sizes in zip(*widths, strict=True))
        drawn = RandomBases(least, most, self.rank, self.bases, self.bases_seed, backbone.device)
        return share(backbone, "bases", drawn)

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        return ScaledBases(matrix, common, self.rank, self.alpha / self.rank, self.dropout)

    def size(self, in_dim: int, out_dim: int) -> int:
        least = min(in_dim, out_dim)
        return math.ceil(least / self.rank) * (self.rank + least)
