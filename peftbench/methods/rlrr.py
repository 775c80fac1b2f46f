"""RLRR (Dong et al., CVPR 2024, arXiv:2403.19067): every matrix rescaled by a rank-one factor, with its residual."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.spec import option
from peftbench.interventions import ScaleShift
from peftbench.methods.base import METHODS
from peftbench.methods.inert import norms_keys
from peftbench.methods.targets import TARGETS, Matrix, Rewriting

# what is scaled and shifted beside the matrices
OPERATIONS = ("embed", "norm")


class RankOneRescale(nn.Module):
    """W -> W + W * (s_out s_in^T), b -> b + `shift`.

    `inner` s_in [1, in_dim] and `outer` s_out [out_dim, 1] are kaiming-uniform with fan-ins in_dim and 1, `shift`
    [out_dim] is zero.
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Parameter(torch.empty(1, in_dim)), nn.Parameter(torch.empty(out_dim, 1))
        self.shift = nn.Parameter(torch.zeros(out_dim))
        for factor in (self.inner, self.outer):
            nn.init.kaiming_uniform_(factor)

    def forward(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return weight * self.inner * self.outer + weight, self.shift if bias is None else bias + self.shift


@METHODS.add("rlrr")
@dataclass(frozen=True)
class RLRR(Rewriting):
    """W' = W + W * (s_out s_in^T), b' = b + f for every matrix of the blocks, and scale and shift as SSF elsewhere.

    in + 2 out parameters for each of the `targets`, and with `norms` 2 D behind patch embedding and each norm, drawn
    like SSF's. Nothing starts at zero but f, so the function changes. Folds exactly. The release takes element-wise
    dropout where it speaks of stochastic depth; here it is stochastic depth. Of the vectors it decays those of the
    patch embedding alone; here none is decayed.
    """

    paper: ClassVar[str] = "arXiv:2403.19067"
    identity_at_init: ClassVar[bool] = False

    norms: bool = option(True)
    targets: list[str] = option(list(TARGETS), choices=TARGETS)

    def attach(self, backbone: Backbone) -> None:
        super().attach(backbone)
        for site in backbone.all_sites if self.norms else ():
            if site.shape.role.startswith(OPERATIONS):
                site.wrap(partial(ScaleShift, width=site.shape.out_dim, channel_dim=site.channel_dim))

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        return RankOneRescale(matrix.in_dim, matrix.out_dim)

    def size(self, in_dim: int, out_dim: int) -> int:
        return in_dim + 2 * out_dim

    def expected_params(self, shape: BackboneShape) -> int:
        others = sum(2 * site.out_dim for site in shape.sites if site.role.startswith(OPERATIONS))
        return super().expected_params(shape) + others * self.norms

    def inert(self, backbone: Backbone) -> dict[str, slice]:
        """The shift of the keys: softmax cancels an offset common to all scores of a query."""
        if backbone.turns_keys:
            return {}
        names = {id(tensor): name for name, tensor in backbone.trainable}
        found = {}
        for site in backbone.sites("attn.qkv"):
            changes = getattr(site.module, "changes", {})
            if "1" in changes and not norms_keys(site.parent):
                found[names[id(changes["1"].shift)]] = slice(None)
        return found
