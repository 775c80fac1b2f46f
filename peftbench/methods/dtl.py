"""DTL (Fu, Zhu and Wu, AAAI 2024, arXiv:2312.07856): a low-rank side network that writes back into late blocks only."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape, SiteShape
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import LowRank, MeanPatch, OnlyToken, SideBlock, TokenGrid
from peftbench.methods.base import METHODS, Method


class WriteBack(nn.Module):
    """e -> theta(e) = e * sigmoid(sharpness * e), in DTL+ followed by a depthwise convolution over the patches.

    e: [batch, prefix + patches, width] or [batch, height, width, channels]; prefix tokens are not convolved.
    """

    def __init__(self, sharpness: float, grid: TokenGrid, conv: nn.Conv2d | None) -> None:
        super().__init__()
        self.sharpness, self.grid, self.conv = sharpness, grid, conv

    def forward(self, e: Tensor) -> Tensor:
        theta = e * torch.sigmoid(self.sharpness * e)
        if self.conv is None:
            return theta
        prefix, maps = self.grid.split(theta)
        maps = self.conv(maps)
        if theta.ndim == 4:
            return maps.permute(0, 2, 3, 1)
        return torch.cat([prefix, maps.flatten(2).transpose(1, 2)], dim=1)


class CompactStep(nn.Module):
    """One layer of the compact side network: e_i = e_{i-1} + B_i A_i x_i, and behind late blocks y_i + write(e_i)."""

    def __init__(self, delta: LowRank, write: WriteBack | None) -> None:
        super().__init__()
        self.delta, self.write = delta, write

    def forward(self, x: Tensor, y: Tensor, e: Tensor | None) -> tuple[Tensor, Tensor]:
        e = self.delta(x) if e is None else e + self.delta(x)
        return (y if self.write is None else y + self.write(e)), e


@METHODS.add("dtl")
@dataclass(frozen=True)
class DTL(Method):
    """e_i = e_{i-1} + B_i A_i x_i with x_i the input of block i; x_{i+1} = block_i(x_i) + theta(e_i) for late i.

    Section 3, equations 3 to 5; theta(v) = v sigmoid(100 v). The first half of the blocks is never written to: of 12
    blocks, 0 to 6 need no backward pass. A is kaiming-uniform with a = sqrt(5), B zero. On a plain transformer the
    features are the norm of the mean patch, whatever the backbone's own pooling is. On Swin, as in the released code,
    e starts anew in every stage, and stages that are not written to get no side network (the paper's Swin-B runs write
    from block 14 of 24 and use rank 4). 2 r D L parameters on a plain ViT.
    """

    family: ClassVar[str] = "side"
    paper: ClassVar[str] = "arXiv:2312.07856"
    pools_itself: ClassVar[bool] = True
    size_option: ClassVar[str] = "rank"

    rank: int = option(2, ge=1)
    sharpness: float = option(100.0, gt=0)
    # the share of the blocks that stays free of write-backs: 6 of 12 in the paper
    untouched: float = option(0.5, ge=0, lt=1)

    def attach(self, backbone: Backbone) -> None:
        shape = backbone.shape
        if shape.family not in ("vit", "swin"):
            raise NotApplicable(f"{self.name} adds to token sequences; {shape.family} has channels-first maps")
        grid, sites = TokenGrid.of(shape), {site.layer: site for site in backbone.sites("block")}
        for stage in self._stages(shape):
            conv = self._conv(stage[0].out_dim)
            for block in stage:
                delta = LowRank(block.out_dim, block.out_dim, self.rank)
                write = WriteBack(self.sharpness, grid, conv) if block.layer >= self._first(shape) else None
                step = CompactStep(delta, write)
                sites[block.layer].wrap(partial(SideBlock, step=step, last=block is stage[-1]))
        if shape.family == "vit":
            sites[shape.depth - 1].wrap(partial(MeanPatch, num_prefix=shape.num_prefix_tokens))
            backbone.readout = OnlyToken(backbone.net)

    def expected_params(self, shape: BackboneShape) -> int:
        return sum(2 * self.rank * block.out_dim for stage in self._stages(shape) for block in stage)

    def _conv(self, width: int) -> nn.Conv2d | None:
        """The convolution of a stage; DTL has none."""
        return None

    def _first(self, shape: BackboneShape) -> int:
        """The first block that is written to."""
        return int(self.untouched * shape.depth)

    def _stages(self, shape: BackboneShape) -> list[list[SiteShape]]:
        """Runs of blocks of one width, up to the end; those that end ahead of the first write-back are left out."""
        stages = [list(blocks) for _, blocks in groupby(shape.at("block"), key=lambda block: block.out_dim)]
        return [stage for stage in stages if stage[-1].layer >= self._first(shape)]


@METHODS.add("dtl_plus")
@dataclass(frozen=True)
class DTLPlus(DTL):
    """DTL with one depthwise k x k convolution behind theta, shared by all blocks (of a stage): k^2 D more parameters.

    No bias, zero padding that keeps the size, torch's default initialisation; the class token is not convolved. The
    paper picks k in {3, 4, 5} for each task; an even k sees one more position behind than ahead.
    """

    kernel_size: int = option(3, ge=1)

    def _conv(self, width: int) -> nn.Conv2d | None:
        return nn.Conv2d(width, width, self.kernel_size, padding="same", groups=width, bias=False)

    def expected_params(self, shape: BackboneShape) -> int:
        convolutions = sum(self.kernel_size**2 * stage[0].out_dim for stage in self._stages(shape))
        return super().expected_params(shape) + convolutions
