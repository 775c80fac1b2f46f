"""VeRA (Kopiczko et al., ICLR 2024, arXiv:2310.11454) and PVeRA (arXiv:2512.07703): scales of one random pair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone
from peftbench.foundation.seeding import derive
from peftbench.foundation.spec import option
from peftbench.interventions import made_again, refer, share
from peftbench.interventions.codes import RandomCode
from peftbench.methods.base import METHODS
from peftbench.methods.targets import TARGETS, Matrix, Targeted


class Projections(nn.Module):
    """A frozen pair `down` [rows, in_dim] and `up` [out_dim, rank] for many matrices.

    Both kaiming-uniform with gain sqrt(2) over the width that they read, or `by_outputs` over the one that they give,
    drawn one after the other from a generator of their own on the CPU, so that a seed stands for them in an adapter
    file.
    """

    down: Tensor
    up: Tensor

    def __init__(
        self, rows: int, in_dim: int, out_dim: int, rank: int, seed: int, device: torch.device, by_outputs: bool = False
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for name, shape in (("down", (rows, in_dim)), ("up", (out_dim, rank))):
            bound = math.sqrt(6 / shape[0 if by_outputs else 1])
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


class SampledProjections(ScaledProjections, RandomCode):
    """x -> scale b * B z with z ~ N(mu, exp(v)) in training and z = mu in evaluation, [mu, v] = d * A dropout(x).

    A has 2 rank rows and d [2 rank] numbers, the second half for v.
    """

    def __init__(
        self, matrix: Matrix, pair: Projections, rank: int, inner_start: float, dropout: float, scale: float
    ) -> None:
        super().__init__(matrix, pair, 2 * rank, inner_start, dropout)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        down, up = self._ends()
        mean, log_variance = (self.inner * F.linear(self.dropout(x), down)).chunk(2, dim=-1)
        return self.outer * self.scale * F.linear(self.drawn(mean, log_variance), up)

    def weight(self) -> Tensor:
        """The matrix [out_dim, in_dim] that this adds to the frozen one in evaluation."""
        down, up = self._ends()
        rank = up.shape[1]
        return (self.scale * self.outer.unsqueeze(1) * up) @ (self.inner[:rank].unsqueeze(1) * down[:rank])


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

    def prepare(self, backbone: Backbone) -> Any:
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

    A [2 rank, in], d [2 rank]; 2 rank + out parameters for each matrix. What is added is multiplied by `scale`. Folds
    exactly at the mean. `form` says how A, B and d start:

    - `library`: as in VeRA, one pair for all matrices (the PEFT library's form, to which `scale` 1 belongs);
    - `released`: a pair for each of the targets, drawn by the widths that A and B give, and d of equal entries, one
      number from U(1e-5, 1) for each matrix (the authors' code, with `scale` 16 and `objective=pvera`).
    """

    paper: ClassVar[str] = "arXiv:2512.07703"
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "By default in the PEFT library's form, which trains without the divergence of the codes; method.form=released "
        "method.scale=16 objective=pvera is the authors'."
    )
    rows_per_rank: ClassVar[int] = 2

    scale: float = option(1.0, gt=0, later=True)
    form: str = option("library", choices=("library", "released"), later=True)

    @property
    def remark(self) -> str:
        """Nothing is adapted in the released form."""
        return "" if self.form == "released" else super().remark

    def problems(self) -> Sequence[str]:
        idle = self.form == "released" and self.inner_start != type(self).inner_start
        return [*super().problems(), *(["method.inner_start goes with method.form=library"] if idle else [])]

    def prepare(self, backbone: Backbone) -> Any:
        if self.form == "library":
            return super().prepare(backbone)
        widths: dict[str, list[tuple[int, int]]] = {}
        for name, in_dim, out_dim in self.named_matrices(backbone.shape):
            widths.setdefault(name.rpartition(".")[2], []).append((in_dim, out_dim))
        return {target: self._pair(backbone, target, sizes) for target, sizes in widths.items()}

    def _pair(self, backbone: Backbone, target: str, sizes: Sequence[tuple[int, int]]) -> Projections:
        in_dim, out_dim = (max(widths) for widths in zip(*sizes, strict=True))
        seed = derive(self.projection_seed, target)
        pair = Projections(2 * self.rank, in_dim, out_dim, self.rank, seed, backbone.device, by_outputs=True)
        return share(backbone, f"projections_{target}", pair)

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        released = self.form == "released"
        pair = common[matrix.target] if released else common
        made = SampledProjections(matrix, pair, self.rank, self.inner_start, self.dropout, self.scale)
        if released:
            nn.init.uniform_(made.inner[:1], 1e-5, 1)
            made.inner.data[1:] = made.inner.data[0]
        return made

    def inert(self, backbone: Backbone) -> dict[str, slice]:
        """The spread's half of d while nothing is sampled."""
        return {name: slice(self.rank, None) for name, _ in backbone.trainable if name.endswith(".inner")}
