"""Adapter+ (Steitz & Roth, CVPR 2024, arXiv:2406.06820): a bottleneck behind the block, scaled channel by channel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.spec import option
from peftbench.interventions import Bottleneck, Tap, Thinned, tap_block
from peftbench.methods.base import METHODS, Method

# the paper's value; both matrices are cut at two of it (Houlsby et al., arXiv:1902.00751, section 3.6)
INIT_STD = 0.01


class PostAdapter(nn.Module):
    """x -> x + c * drop_path(up(dropout(gelu(down(x))))), channels last; c [width] starts at one.

    down and up come from a normal of std 0.01 cut at two of it, their biases are zero: near the identity, not at it.
    """

    def __init__(self, width: int, bottleneck: int, dropout: float, drop_path: float) -> None:
        super().__init__()
        branch = Bottleneck(width, bottleneck, "gelu", dropout)
        for linear in (branch.down, branch.up):
            nn.init.trunc_normal_(linear.weight, std=INIT_STD, a=-2 * INIT_STD, b=2 * INIT_STD)
        self.branch = Thinned(branch, drop_path)
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x) * self.scale


@METHODS.add("adapter_plus")
@dataclass(frozen=True)
class AdapterPlus(Method):
    """x = x + c * up(gelu(down(x))) on the stream behind the block, c one number a channel (section 3, "Post").

    The adapter has no norm and a stochastic depth of its own, equal in all blocks, ahead of the scale. L (2 D h + h +
    2 D) parameters on a plain ViT. The paper also takes a width from 1 to 32 for each task of VTAB-1k.
    """

    family: ClassVar[str] = "adapter"
    paper: ClassVar[str] = "arXiv:2406.06820"
    identity_at_init: ClassVar[bool] = False
    size_option: ClassVar[str] = "bottleneck"

    bottleneck: int = option(8, ge=1)
    dropout: float = option(0.0, ge=0, lt=1)
    drop_path: float = option(0.1, ge=0, lt=1)

    def attach(self, backbone: Backbone) -> None:
        for site in backbone.sites("block"):
            adapter = PostAdapter(site.shape.out_dim, self.bottleneck, self.dropout, self.drop_path)
            site.wrap(partial(tap_block, taps=[Tap("mlp", adapter, place="stream")]))

    def expected_params(self, shape: BackboneShape) -> int:
        h = self.bottleneck
        return sum(2 * site.out_dim * h + h + 2 * site.out_dim for site in shape.at("block"))
