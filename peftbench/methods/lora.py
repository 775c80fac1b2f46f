"""LoRA (Hu et al., ICLR 2022, arXiv:2106.09685): a low-rank update of chosen linear maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import FixedDown, LinearDelta, LowRank, ShiftedLowRank
from peftbench.methods.base import METHODS, Method
from peftbench.methods.targets import TARGETS, Matrix, Targeted, singular_triples

INITS = ("kaiming", "pissa", "olora")


@METHODS.add("lora")
@dataclass(frozen=True)
class LoRA(Targeted):
    """W' = W + s B A with A [rank, in], B [out, rank], s = alpha / rank (section 4.1). Folds exactly into W.

    Its best-known variants are options:

    `init` says where A and B start. `kaiming`: A drawn, B zero. `pissa` (arXiv:2404.02948): from the largest singular
    triples of W, s B A = U_r S_r V_r^T with the root of S_r on either side; `olora` (arXiv:2406.01775): B the first
    columns of Q, A the first rows of R of W = Q R. Both take their start out of W, so that the function stays.

    `scaling` `rank_root` is rsLoRA's s = alpha / sqrt(rank) (arXiv:2312.03732). `up_rate` is LoRA+'s ratio of the
    learning rates of B and A (arXiv:2402.12354). With `down_seed` A is drawn from that seed and stays frozen, as in
    LoRA-FA (arXiv:2308.03303): rank out parameters for each matrix.
    """

    paper: ClassVar[str] = "arXiv:2106.09685"
    size_option: ClassVar[str] = "rank"

    rank: int = option(8, ge=1)
    alpha: float = option(8.0, gt=0)
    dropout: float = option(0.1, ge=0, lt=1)
    # the paper adapts q and v (section 5.1)
    targets: list[str] = option(["q", "v"], choices=TARGETS)
    init: str = option("kaiming", choices=INITS, later=True)
    scaling: str = option("rank", choices=("rank", "rank_root"), later=True)
    up_rate: float = option(1.0, gt=0, later=True)
    down_seed: int | None = option(None, ge=0, later=True)

    def problems(self) -> Sequence[str]:
        drawn = self.down_seed is None or self.init == "kaiming"
        return [*super().problems(), *([] if drawn else ["method.down_seed draws A, which method.init takes from W"])]

    def lr_scale(self, tensor: str) -> float:
        return self.up_rate if tensor.endswith(".up") else 1.0

    def prepare(self, backbone: Backbone) -> torch.Generator | None:
        return None if self.down_seed is None else torch.Generator().manual_seed(self.down_seed)

    @property
    def scale(self) -> float:
        return self.alpha / (self.rank if self.scaling == "rank" else math.sqrt(self.rank))

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        if self.down_seed is not None:
            down = torch.empty(self.rank, matrix.in_dim, device="cpu")
            nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=common)
            return FixedDown(down.to(matrix.weight.device), matrix.out_dim, self.scale, self.dropout)
        if self.init == "kaiming":
            return LowRank(matrix.in_dim, matrix.out_dim, self.rank, self.scale, self.dropout)
        if self.rank > min(matrix.weight.shape):
            raise NotApplicable(f"method.rank = {self.rank} is more than the rank of {matrix.target} on this backbone")
        up, down = (principal_pair if self.init == "pissa" else orthogonal_pair)(matrix.weight, self.rank, self.scale)
        return ShiftedLowRank(down, up, self.scale, self.dropout)

    def size(self, in_dim: int, out_dim: int) -> int:
        return self.rank * (out_dim + (in_dim if self.down_seed is None else 0))


def principal_pair(weight: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """U_r sqrt(S_r / scale) [out, rank] and sqrt(S_r / scale) V_r^T [rank, in] of the singular triples of `weight`."""
    u, s, vt = singular_triples(weight, rank)
    root = (s / scale).sqrt()
    return u * root, root.unsqueeze(1) * vt


def orthogonal_pair(weight: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """The first columns of Q [out, rank] and the first rows of R [rank, in] of weight = Q R, whatever the scale."""
    q, r = torch.linalg.qr(weight.detach())
    return q[:, :rank].contiguous(), r[:rank].contiguous()


@METHODS.add("lora_qkv_shared")
@dataclass(frozen=True)
class LoRASharedQKV(Method):
    """W' = W + s B A on the fused qkv: one A [rank, D] for all three, B [3 D, rank]; rank (D + 3 D) L parameters.

    The form of NOAH (Zhang et al., arXiv:2206.04673) and of later benchmarks built on it, without the factor
    alpha / rank. At equal rank it trains as many parameters as separate pairs on q and v, but it is another function.
    """

    family: ClassVar[str] = "reparametrisation"
    paper: ClassVar[str] = "arXiv:2206.04673"
    mergeable: ClassVar[bool] = True
    size_option: ClassVar[str] = "rank"

    rank: int = option(8, ge=1)
    scale: float = option(1.0, gt=0)
    dropout: float = option(0.1, ge=0, lt=1)

    def attach(self, backbone: Backbone) -> None:
        for site in backbone.sites("attn.qkv"):
            pair = LowRank(site.shape.in_dim, site.shape.out_dim, self.rank, self.scale, self.dropout)
            site.wrap(partial(LinearDelta, deltas={0: pair}))

    def expected_params(self, shape: BackboneShape) -> int:
        return sum(self.rank * (site.in_dim + site.out_dim) for site in shape.at("attn.qkv"))
