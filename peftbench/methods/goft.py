"""GOFT and qGOFT (Ma et al., ICML 2024, arXiv:2404.04316): weights turned by a tree of Givens rotations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone
from peftbench.foundation.spec import option
from peftbench.methods.base import METHODS
from peftbench.methods.targets import TARGETS, Matrix, Rewriting


class PairTree(nn.Module):
    """W -> W G_1^T G_2^T ...; stage s mixes those inputs in pairs that the stages before it left first; a base class.

    Stage 1 pairs neighbours, stage 2 the first inputs of these pairs, and so on; an odd one out waits for the next
    stage. in_dim - 1 pairs in all, each with a matrix of 2 x 2 of `pairs`.
    """

    places: Tensor

    def __init__(self, in_dim: int, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("places", _places(in_dim).to(device), persistent=False)

    def pairs(self) -> Tensor:
        """The matrices [in_dim - 1, 2, 2], stage by stage."""
        raise NotImplementedError

    def scaled(self, weight: Tensor) -> Tensor:
        """The weight ahead of the first stage."""
        return weight

    def forward(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        active, done, used = self.scaled(weight), [], 0
        pairs = self.pairs()
        while active.shape[1] > 1:
            number = active.shape[1] // 2
            stage = pairs[used : used + number]
            mixed = torch.einsum("onk,njk->onj", active[:, : 2 * number].unflatten(1, (number, 2)), stage)
            done.append(mixed[..., 1])
            active = torch.cat([mixed[..., 0], active[:, 2 * number :]], dim=1)
            used += number
        return torch.cat([*done, active], dim=1).index_select(1, self.places), bias


def _places(width: int) -> Tensor:
    """Where each input stands once the seconds of every stage's pairs are put side by side: int64 [width]."""
    active, done = torch.arange(width), []
    while len(active) > 1:
        paired = len(active) // 2 * 2
        done.append(active[1:paired:2])
        active = torch.cat([active[:paired:2], active[paired:]])
    return torch.cat([*done, active]).argsort()


class Rotations(PairTree):
    """Pairs turned by pi tanh(a), `angles` a [in_dim - 1] from zero; with `scale`, inputs are scaled first, from 1."""

    def __init__(self, in_dim: int, scale: bool, device: torch.device) -> None:
        super().__init__(in_dim, device)
        self.angles = nn.Parameter(torch.zeros(in_dim - 1))
        self.lengths = nn.Parameter(torch.ones(in_dim)) if scale else None

    def pairs(self) -> Tensor:
        angles = torch.pi * self.angles.tanh()
        cosines, sines = angles.cos(), angles.sin()
        return torch.stack([cosines, -sines, sines, cosines], dim=-1).unflatten(-1, (2, 2))

    def scaled(self, weight: Tensor) -> Tensor:
        return weight if self.lengths is None else weight * self.lengths


class FreePairs(PairTree):
    """Pairs mixed by any matrix of 2 x 2, `matrices` [in_dim - 1, 2, 2] from the identity."""

    def __init__(self, in_dim: int, device: torch.device) -> None:
        super().__init__(in_dim, device)
        self.matrices = nn.Parameter(torch.eye(2).repeat(in_dim - 1, 1, 1))

    def pairs(self) -> Tensor:
        return self.matrices


@dataclass(frozen=True)
class _Givens(Rewriting):
    """What both share."""

    paper: ClassVar[str] = "arXiv:2404.04316"

    targets: list[str] = option(["q", "v"], choices=TARGETS)

    def prepare(self, backbone: Backbone) -> torch.device:
        return backbone.device


@METHODS.add("goft")
@dataclass(frozen=True)
class GOFT(_Givens):
    """W' = W R^T, R a product of in - 1 Givens rotations in log2(in) stages of disjoint pairs (section 4.2).

    Angles are pi tanh(a) with a from zero, as released: the function is unchanged. in - 1 parameters for each matrix;
    with `scale` the columns of W get factors too, in more, which the release has on and the paper's counts leave out.
    Biases stay; folds exactly.

    The stages are those of the first release; its later one pairs neighbours in every stage, which is no rotation.
    """

    scale: bool = option(False)

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        return Rotations(matrix.in_dim, self.scale, common)

    def size(self, in_dim: int, out_dim: int) -> int:
        return in_dim - 1 + in_dim * self.scale


@METHODS.add("qgoft")
@dataclass(frozen=True)
class QGOFT(_Givens):
    """W' = W R^T, R as in GOFT but with any matrix of 2 x 2 in place of each rotation (section 4.3).

    The matrices start at the identity: the function is unchanged. 4 (in - 1) parameters for each matrix. Biases stay;
    folds exactly.
    """

    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "The paper's penalty on pairs that are not orthogonal is left out, as it is in the released code."
    )

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        return FreePairs(matrix.in_dim, common)

    def size(self, in_dim: int, out_dim: int) -> int:
        return 4 * (in_dim - 1)
