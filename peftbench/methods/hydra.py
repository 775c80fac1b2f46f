"""Hydra (Kim et al., 2023, arXiv:2309.06922): a parallel and a sequential low-rank branch on one linear map."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.spec import option
from peftbench.interventions import AffineLowRank, ParallelAndSequential
from peftbench.methods.base import METHODS, Method

ROLES = ("attn.proj", "mlp.fc2")


@METHODS.add("hydra")
@dataclass(frozen=True)
class Hydra(Method):
    """y = W z + b; y + s (B_p (A_p z + a_p) + b_p) + s (B_s (A_s y + a_s) + b_s) on proj and fc2 of every block.

    A [r, in], B [out, r], no activation; A xavier-uniform, all else 0, as in the released code. Folds exactly:
    W' = W + s B_p A_p + s B_s A_s W. Rank 2 is the VTAB-1k setting; there, scale (0.1 to 4.5) and dropout (0 to 0.2)
    are chosen for each task.
    """

    family: ClassVar[str] = "reparametrisation"
    paper: ClassVar[str] = "arXiv:2309.06922"
    mergeable: ClassVar[bool] = True
    size_option: ClassVar[str] = "rank"

    rank: int = option(2, ge=1)
    scale: float = option(1.0, gt=0)
    dropout: float = option(0.0, ge=0, lt=1)

    def attach(self, backbone: Backbone) -> None:
        for site in [site for role in ROLES for site in backbone.sites(role)]:
            inside, outside = site.shape.in_dim, site.shape.out_dim
            parallel = AffineLowRank(inside, outside, self.rank, self.scale, self.dropout)
            sequential = AffineLowRank(outside, outside, self.rank, self.scale, self.dropout)
            site.wrap(partial(ParallelAndSequential, parallel=parallel, sequential=sequential))

    def expected_params(self, shape: BackboneShape) -> int:
        r = self.rank
        return sum(r * (s.in_dim + s.out_dim) + r * 2 * s.out_dim + 2 * (r + s.out_dim) for s in shape.at(*ROLES))
