"""VeRA (Kopiczko et al., ICLR 2024, arXiv:2310.11454) and PVeRA (arXiv:2512.07703): scales of one random pair."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone
from peftbench.foundation.spec import option
from peftbench.interventions import made_again, refer, share
from peftbench.methods.base import METHODS
from peftbench.methods.targets import TARGETS, Matrix, Targeted


class Projections(nn.Module):
    """The frozen pair `down` [rows, in_dim] and `up` [out_dim, rank], one for the whole network.

    Both kaiming-uniform with gain sqrt(2), drawn one after the other from a generator of their own on the CPU, so that
    a seed stands for them in an adapter file.
    """

    down: Tensor
    up: Tensor

    def __init__(self, rows: int, in_dim: int, out_dim: int, rank: int, seed: int, device: torch.device) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for name, shape in (("down", (rows, in_dim)), ("up", (out_dim, rank))):
            bound = math.sqrt(6 / shape[1])
            drawn = torch.empty(shape, device="cpu").uniform_(-bound, bound, generator=generator)
            made_again(self, name, drawn.to(device))


class ScaledProjections(nn.Module):
    """x -> b * B (d * A dropout(x)) with the frozen pair cut to [rank, in_dim] and [out_dim, rank].

    `outer` b [out_dim] starts at zero, `inner` d [rank] at `inner_start`.
    """

    pair: Projections

    def __init__(self, matrix: Matrix, pair: Projections, rank: int, inner_start: float, dropout: float) -> None:
        super().__init__()
        refer(self, "pair", pair)
        self.inner = nn.Parameter(torch.full((rank,), inner_start))
        self.outer = nn.Parameter(torch.zeros(matrix.out_dim))
        self.dropout = nn.Dropout(dropout)
        self.in_dim = matrix.in_dim

    def _ends(self) -> tuple[Tensor, Tensor]:
        return self.pair.down[:, : self.in_dim], self.pair.up[: len(self.outer)]

    def forward(self, x: Tensor) -> Tensor:
        down, up = self._ends()
        return self.outer * F.linear(self.inner * F.linear(self.dropout(x), down), up)

    def weight(self) -> Tensor:
        """The matrix [out_dim, in_dim] that this adds to the frozen one."""
        down, up = self._ends()
        return (self.outer.unsqueeze(1) * up) @ (self.inner.unsqueeze(1) * down)


class SampledProjections(ScaledProjections):
    """x -> b * B z with z ~ N(mu, exp(v)) in training and z = mu in evaluation, [mu, v] = d * A dropout(x).

    A has 2 rank rows and d [2 rank] numbers, the second half for v.
    """

    def __init__(self, matrix: Matrix, pair: Projections, rank: int, inner_start: float, dropout: float) -> None:
        super().__init__(matrix, pair, 2 * rank, inner_start, dropout)

    def forward(self, x: Tensor) -> Tensor:
        down, up = self._ends()
        mean, log_variance = (self.inner * F.linear(self.dropout(x), down)).chunk(2, dim=-1)
        if self.training:
            mean = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        return self.outer * F.linear(mean, up)

    def weight(self) -> Tensor:
        """The matrix [out_dim, in_dim] that this adds to the frozen one in evaluation."""
        down, up = self._ends()
        rank = up.shape[1]
        return (self.outer.unsqueeze(1) * up) @ (self.inner[:rank].unsqueeze(1) * down[:rank])


@METHODS.add("vera")
@dataclass(frozen=True)
class VeRA(Targeted):
    """W' = W + diag(b) B diag(d) A with A and B frozen and random, one pair for all matrices (equation 2).

    A [rank, in] and B [out, rank] are cut from a pair as large as the largest target, so a further target changes how
    A is scaled for the others. b [out] starts at zero, d [rank] at `inner_start`: the function is unchanged.
    rank + out parameters for each matrix; folds exactly. `projection_seed` stands for A and B, which are not saved.
    """

    paper: ClassVar[str] = "arXiv:2310.11454"
    size_option: ClassVar[str] = "rank"
    rows_per_rank: ClassVar[int] = 1

    rank: int = option(256, ge=1)
    inner_start: float = option(0.1, gt=0)
    dropout: float = option(0.0, ge=0, lt=1)
    targets: list[str] = option(["q", "v"], choices=TARGETS)
    projection_seed: int = option(0, ge=0)

    def prepare(self, backbone: Backbone) -> Projections:
        widths = list(self.matrices(backbone.shape))
        in_dim, out_dim = (max(sizes) for sizes in zip(*widths, strict=True))
        rows = self.rows_per_rank * self.rank
        pair = Projections(rows, in_dim, out_dim, self.rank, self.projection_seed, backbone.device)
        return share(backbone, "projections", pair)

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        return ScaledProjections(matrix, common, self.rank, self.inner_start, self.dropout)

    def size(self, in_dim: int, out_dim: int) -> int:
        return self.rows_per_rank * self.rank + out_dim


@METHODS.add("pvera")
@dataclass(frozen=True)
class PVeRA(VeRA):
    """VeRA with a random low-rank code: z ~ N(mu, exp(v)) in training, mu after it, [mu, v] = diag(d) A x.

    A [2 rank, in], d [2 rank]; 2 rank + out parameters for each matrix. Folds exactly at the mean.
    """

    paper: ClassVar[str] = "arXiv:2512.07703"
    rows_per_rank: ClassVar[int] = 2

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        return SampledProjections(matrix, common, self.rank, self.inner_start, self.dropout)

    def inert(self, backbone: Backbone) -> dict[str, slice]:
        """The spread's half of d while nothing is sampled."""
        return {name: slice(self.rank, None) for name, _ in backbone.trainable if name.endswith(".inner")}
