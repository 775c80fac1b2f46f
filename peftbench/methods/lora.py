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
from peftbench.interventions import FixedDown, FixedUp, LinearDelta, LowRank, ShiftedLowRank
from peftbench.methods.base import METHODS, Method
from peftbench.methods.lora_start import STARTS, Place, look
from peftbench.methods.observation import Evidence, Findings
from peftbench.methods.targets import TARGETS, Matrix, Targeted, on_host, singular_triples

# the last ones look at the training images
INITS = ("kaiming", "pissa", "olora", "mica", *STARTS)


@METHODS.add("lora")
@dataclass(frozen=True)
class LoRA(Targeted):
    """W' = W + s B A with A [rank, in], B [out, rank], s = alpha / rank (section 4.1). Folds exactly into W.

    Its best-known variants are options:

    `init` says where A and B start. `kaiming`: A drawn, B zero. `pissa` (arXiv:2404.02948): from the largest singular
    triples of W, s B A = U_r S_r V_r^T with the root of S_r on either side; `olora` (arXiv:2406.01775): B the first
    columns of Q, A the first rows of R of W = Q R. Both take their start out of W, so that the function stays. `mica`
    (arXiv:2604.01694): B the left singular vectors of the smallest singular values, frozen, and A zero: rank in
    parameters. Four look at the training images first (`lora_start.py`): `eva` (arXiv:2410.07170), which also deals out
    the ranks, `corda` and `corda_kept` (arXiv:2406.05223), and `lora_ga` (arXiv:2407.05000).

    `scaling` `rank_root` is rsLoRA's s = alpha / sqrt(rank) (arXiv:2312.03732). `up_rate` is LoRA+'s ratio of the
    learning rates of B and A (arXiv:2402.12354). With `down_seed` A is drawn from that seed and stays frozen, as in
    LoRA-FA (arXiv:2308.03303), whose optimiser also corrects the gradient of B, which is not done here: rank out
    parameters for each matrix.
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

    @property
    def looks_first(self) -> bool:
        return self.init in STARTS

    def problems(self) -> Sequence[str]:
        drawn = self.down_seed is None or self.init == "kaiming"
        found = [] if drawn else [f"method.down_seed draws A, which method.init={self.init} sets"]
        if self.init == "mica" and self.up_rate != 1:
            found.append("method.up_rate is the rate of B, which method.init=mica freezes")
        return [*super().problems(), *found]

    def lr_scale(self, tensor: str) -> float:
        return self.up_rate if tensor.endswith(".up") else 1.0

    def prepare(self, backbone: Backbone) -> torch.Generator | None:
        return None if self.down_seed is None else torch.Generator().manual_seed(self.down_seed)

    @property
    def scale(self) -> float:
        return self.alpha / (self.rank if self.scaling == "rank" else math.sqrt(self.rank))

    def observe(self, evidence: Evidence) -> Findings:
        """`<layer>.<target>.down` and, where B does not start at zero, `.up`, see `lora_start.py`."""
        return look(self.init, evidence, self._places, self.rank, self.scale)

    def _places(self, backbone: Backbone) -> list[Place]:
        places = []
        for site, matrices in self.linear_maps(backbone):
            assert isinstance(site.module, nn.Linear)
            for number, matrix in matrices.items():
                rows = slice(number * matrix.out_dim, (number + 1) * matrix.out_dim)
                places.append(Place(site.module, rows, matrix))
        return places

    def attach_with(self, backbone: Backbone, findings: Findings) -> None:
        self.place(self.linear_maps(backbone), findings)

    def _started(self, matrix: Matrix, findings: Findings) -> nn.Module | None:
        down = findings[f"{matrix.name}.down"].to(matrix.weight.device)
        if not len(down):
            return None
        if (up := findings.get(f"{matrix.name}.up")) is not None:
            return ShiftedLowRank(down, up.to(down.device), self.scale, self.dropout)
        pair = LowRank(matrix.in_dim, matrix.out_dim, len(down), self.scale, self.dropout)
        with torch.no_grad():
            pair.down.copy_(down)
        return pair

    def module(self, matrix: Matrix, common: Any) -> nn.Module | None:
        if self.down_seed is not None:
            down = torch.empty(self.rank, matrix.in_dim, device="cpu")
            nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=common)
            return FixedDown(down.to(matrix.weight.device), matrix.out_dim, self.scale, self.dropout)
        if self.init == "kaiming":
            return LowRank(matrix.in_dim, matrix.out_dim, self.rank, self.scale, self.dropout)
        if self.looks_first:
            return self._started(matrix, common)
        if self.rank > min(matrix.weight.shape):
            raise NotApplicable(f"method.rank = {self.rank} is more than the rank of {matrix.target} on this backbone")
        if self.init == "mica":
            return FixedUp(matrix.in_dim, minor_directions(matrix.weight, self.rank), self.scale, self.dropout)
        up, down = (principal_pair if self.init == "pissa" else orthogonal_pair)(matrix.weight, self.rank, self.scale)
        return ShiftedLowRank(down, up, self.scale, self.dropout)

    def size(self, in_dim: int, out_dim: int) -> int:
        if self.init == "mica":
            return self.rank * in_dim
        return self.rank * (out_dim + (in_dim if self.down_seed is None else 0))

    def expected_with(self, shape: BackboneShape, findings: Findings) -> int:
        widths = {name: in_dim + out_dim for name, in_dim, out_dim in self.named_matrices(shape)}
        return sum(len(findings[f"{name}.down"]) * both for name, both in widths.items())

    def summary(self, findings: Findings) -> dict[str, Any]:
        return {"ranks": {name.removesuffix(".down"): len(x) for name, x in findings.items() if name.endswith(".down")}}


def principal_pair(weight: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """U_r sqrt(S_r / scale) [out, rank] and sqrt(S_r / scale) V_r^T [rank, in] of the singular triples of `weight`."""
    u, s, vt = singular_triples(weight, rank)
    root = (s / scale).sqrt()
    return u * root, root.unsqueeze(1) * vt


def minor_directions(weight: Tensor, rank: int) -> Tensor:
    """U [out, rank], the left singular vectors of the smallest singular values of `weight`."""
    # on the CPU, as in `singular_triples`
    u = torch.linalg.svd(on_host(weight), full_matrices=False).U.to(weight.device)
    return u[:, -rank:].contiguous()


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
