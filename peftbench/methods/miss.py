"""MiSS (Kang and Yin, arXiv:2409.15371): one small matrix shared by all pieces of a weight's inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import Rewritten
from peftbench.methods.base import METHODS
from peftbench.methods.targets import TARGETS, Matrix, Rewriting


class SharedShard(nn.Module):
    """W -> W + [M^T M^T ...], cut to the width: `shard` M [rank, out_dim], zero at the start."""

    def __init__(self, out_dim: int, rank: int) -> None:
        super().__init__()
        self.shard = nn.Parameter(torch.zeros(rank, out_dim))

    def forward(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        places = torch.arange(weight.shape[1], device=weight.device) % len(self.shard)
        return weight + self.shard.T[:, places], bias


class SharedAffine(nn.Module):
    """W -> W + W_ij M_i + M_i on blocks [rank, rank]: `shards` M [out_dim / rank, rank, rank], zero at the start."""

    def __init__(self, out_dim: int, rank: int) -> None:
        super().__init__()
        self.shards = nn.Parameter(torch.zeros(out_dim // rank, rank, rank))

    def forward(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        rank = self.shards.shape[-1]
        blocks = weight.unflatten(1, (-1, rank)).unflatten(0, (-1, rank)).transpose(1, 2)
        changed = blocks + blocks @ self.shards.unsqueeze(1) + self.shards.unsqueeze(1)
        return changed.transpose(1, 2).flatten(2).flatten(0, 1), bias


@METHODS.add("miss")
@dataclass(frozen=True)
class MiSS(Rewriting):
    """W' = W + M^T for every piece of r = `rank` inputs, one M [r, out] for all of them: r out parameters a matrix.

    r is the width where that is less. M starts at zero: the function is unchanged. `variant: bat` multiplies as well,
    W' = W + W_ij M_i + M_i on blocks [r, r], one M_i for each row of blocks; its rank must cut both widths (else
    `NotApplicable`). Folds exactly.
    """

    paper: ClassVar[str] = "arXiv:2409.15371"

    rank: int = option(64, ge=1)
    dropout: float = option(0.0, ge=0, lt=1)
    variant: str = option("miss", choices=("miss", "bat"))
    targets: list[str] = option(["q", "v"], choices=TARGETS)

    def problems(self) -> Sequence[str]:
        idle = self.variant == "bat" and self.dropout > 0
        return [*super().problems(), *(["method.dropout has no place in method.variant=bat"] if idle else [])]

    def prepare(self, backbone: Backbone) -> None:
        for in_dim, out_dim in self.matrices(backbone.shape):
            rank = min(self.rank, in_dim)
            if self.variant == "bat" and (in_dim % rank or out_dim % rank):
                raise NotApplicable(f"method.rank = {rank} does not cut a matrix of {out_dim} x {in_dim} into blocks")

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        return (SharedShard if self.variant == "miss" else SharedAffine)(matrix.out_dim, min(self.rank, matrix.in_dim))

    def act(self, base: nn.Module, modules: dict[int, nn.Module], num_slices: int) -> nn.Module:
        return Rewritten(base, modules, num_slices, self.dropout)

    def size(self, in_dim: int, out_dim: int) -> int:
        return min(self.rank, in_dim) * out_dim
