"""LoRand (Yin et al., "1% VS 100%", CVPR 2023): adapters whose projections are sums of low-rank products."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape, Site
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import Behind
from peftbench.methods.base import METHODS, Method

ROLES = ("attn", "mlp")


class SynthesisedBottleneck(nn.Module):
    """x -> U^T gelu(W^T x + b) + c with W = sum_i P_i K_i Q_i [width, bottleneck], U = sum_i R_i K_i S_i [bottleneck,
    width], i = 1..num_branches.

    P_i [width, rank], Q_i [rank, bottleneck], R_i [bottleneck, rank], S_i [rank, width]; the kernels K_i [rank, rank]
    serve both projections, unless each has its own. Factors are kaiming-uniform with a = sqrt(5), biases uniform within
    1 / sqrt(fan in).
    """

    def __init__(self, width: int, bottleneck: int, num_branches: int, rank: int, shared: bool = True) -> None:
        super().__init__()
        self.kernels = _factors(num_branches, rank, rank)
        self.down_left, self.down_right = _factors(num_branches, width, rank), _factors(num_branches, rank, bottleneck)
        self.up_left, self.up_right = _factors(num_branches, bottleneck, rank), _factors(num_branches, rank, width)
        self.down_bias = nn.Parameter(torch.empty(bottleneck).uniform_(-1, 1) / math.sqrt(width))
        self.up_bias = nn.Parameter(torch.empty(width).uniform_(-1, 1) / math.sqrt(bottleneck))
        self.up_kernels = None if shared else _factors(num_branches, rank, rank)

    def forward(self, x: Tensor) -> Tensor:
        down = (self.down_left @ self.kernels @ self.down_right).sum(0)
        up = (self.up_left @ (self.kernels if self.up_kernels is None else self.up_kernels) @ self.up_right).sum(0)
        return F.linear(F.gelu(F.linear(x, down.T, self.down_bias)), up.T, self.up_bias)


def _factors(number: int, rows: int, columns: int) -> nn.Parameter:
    factors = nn.Parameter(torch.empty(number, rows, columns))
    for factor in factors:
        nn.init.kaiming_uniform_(factor, a=math.sqrt(5))
    return factors


@METHODS.add("lorand")
@dataclass(frozen=True)
class LoRand(Method):
    """y <- y + up(gelu(down(y))) behind attention and the MLP, both projections sums of products P_i K_i Q_i.

    Ahead of stochastic depth, behind which the released code has them. The kernels K_i are shared by the two
    projections of an adapter (not so in the authors' released code: `share_kernels=false`); the bottleneck is width
    / reduction. With two branches, rank 8 and reduction 2 the counts are the published ones of Swin-B (1.20 M). The
    initialisation is that of the authors' class. 2 L (a (2 r D + 2 r h + r^2) + h + D) parameters
    on a plain ViT, a branches.
    """

    family: ClassVar[str] = "adapter"
    paper: ClassVar[str] = "Yin et al., CVPR 2023"
    identity_at_init: ClassVar[bool] = False
    size_option: ClassVar[str] = "rank"
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = "Made for detection and segmentation on Swin; here the same adapters under a classifier."

    num_branches: int = option(2, ge=1)
    rank: int = option(8, ge=1)
    reduction: int = option(2, ge=1)
    share_kernels: bool = option(True, later=True)

    def attach(self, backbone: Backbone) -> None:
        for site, adapter in self._adapters(backbone):
            site.wrap(partial(Behind, module=adapter, channel_dim=site.channel_dim))

    def _adapters(self, backbone: Backbone) -> list[tuple[Site, SynthesisedBottleneck]]:
        """Each attention and each MLP with an adapter of its width."""
        sites = [site for role in ROLES for site in backbone.sites(role)]
        for width in {site.shape.out_dim for site in sites}:
            if self._bottleneck(width) < 1:
                raise NotApplicable(f"method.reduction = {self.reduction} leaves nothing of the width {width}")
        widths = [site.shape.out_dim for site in sites]
        sizes = self.num_branches, self.rank, self.share_kernels
        adapters = [SynthesisedBottleneck(w, self._bottleneck(w), *sizes) for w in widths]
        return list(zip(sites, adapters, strict=True))

    def _bottleneck(self, width: int) -> int:
        return width // self.reduction

    def expected_params(self, shape: BackboneShape) -> int:
        total = 0
        for site in shape.at(*ROLES):
            width, h = site.out_dim, self._bottleneck(site.out_dim)
            branch = 2 * self.rank * (width + h) + self.rank**2 * (1 if self.share_kernels else 2)
            total += self.num_branches * branch + h + width
        return total
