"""RepAdapter (Luo et al., arXiv:2302.08106): linear adapters ahead of qkv and fc1 that fold into them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import Ahead
from peftbench.methods.base import METHODS, Method


class GroupedAdapter(nn.Module):
    """z -> scale * (G dropout(A z + a) + b) with A [bottleneck, width] dense and G [width, bottleneck] block diagonal.

    `up` [width, bottleneck / groups] holds the blocks of G. A is xavier-uniform; G, a and b are zero.
    """

    def __init__(self, width: int, bottleneck: int, groups: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Parameter(torch.zeros(width, bottleneck // groups))
        self.up_bias = nn.Parameter(torch.zeros(width))
        self.dropout = nn.Dropout(dropout)
        self.groups, self.scale = groups, scale
        nn.init.xavier_uniform_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def _dense_up(self) -> Tensor:
        return torch.block_diag(*self.up.chunk(self.groups))

    def forward(self, z: Tensor) -> Tensor:
        return self.scale * F.linear(self.dropout(self.down(z)), self._dense_up(), self.up_bias)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Matrix [width, width] and offset [width] of the map without dropout."""
        up = self.scale * self._dense_up()
        return up @ self.down.weight, up @ self.down.bias + self.scale * self.up_bias


@METHODS.add("repadapter")
@dataclass(frozen=True)
class RepAdapter(Method):
    """attn(z + A(z)) and mlp(z + A(z)) with z the normed stream.

    A(z) = scale * (G (W z + a) + b) has no activation, so it folds exactly: W_0 <- W_0 (I + scale G W) and
    b_0 <- b_0 + scale W_0 (G a + b) for W_0 in {qkv, fc1}. Acting on the inputs of these two is the same
    as acting behind the norms. 2 L (D h + h + D h / g + D) parameters on a plain ViT; published counts leave the
    biases out. ConvNeXt: the MLP only, since an adapter ahead of a depthwise convolution does not fold. The paper
    picks `scale` in {0.1, 0.5, 1, 5, 10} for each task.
    """

    family: ClassVar[str] = "adapter"
    paper: ClassVar[str] = "arXiv:2302.08106"
    mergeable: ClassVar[bool] = True
    roles: ClassVar[tuple[str, ...]] = ("attn.qkv", "mlp.fc1")
    size_option: ClassVar[str] = "bottleneck"

    bottleneck: int = option(8, ge=1)
    num_groups: int = option(2, ge=1)
    scale: float = option(1.0, gt=0)
    dropout: float = option(0.1, ge=0, lt=1)

    def problems(self) -> Sequence[str]:
        if self.bottleneck % self.num_groups:
            return [f"method.bottleneck={self.bottleneck} must be a multiple of method.num_groups={self.num_groups}"]
        return ()

    def attach(self, backbone: Backbone) -> None:
        sites = [site for site in backbone.all_sites if site.shape.role in self.roles]
        if not sites:
            raise NotApplicable(
                f"{self.name} acts ahead of {' and '.join(self.roles)}; {backbone.shape.family} has none"
            )
        for width in {site.shape.in_dim for site in sites}:
            if width % self.num_groups:
                raise NotApplicable(f"{self.name} cannot split width {width} into {self.num_groups} groups")
        for site in sites:
            adapter = GroupedAdapter(site.shape.in_dim, self.bottleneck, self.num_groups, self.scale, self.dropout)
            site.wrap(partial(Ahead, module=adapter, channel_dim=site.channel_dim))

    def expected_params(self, shape: BackboneShape) -> int:
        h, g = self.bottleneck, self.num_groups
        return sum(site.in_dim * (h + h // g + 1) + h for site in shape.at(*self.roles))


@METHODS.add("repadapter_attn")
@dataclass(frozen=True)
class RepAdapterAttn(RepAdapter):
    """RepAdapter ahead of attention only (`repattn` in the released code): half the parameters."""

    roles: ClassVar[tuple[str, ...]] = ("attn.qkv",)
