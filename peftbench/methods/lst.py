"""Ladder side-tuning (Sung, Cho and Bansal, NeurIPS 2022, arXiv:2206.06522): a thin transformer beside a frozen one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import SideBlock
from peftbench.interventions.side import init_linears, small_block
from peftbench.methods.base import METHODS, Method


class Rung(nn.Module):
    """z_i = Block_i(g_i z_{i-1} + (1 - g_i) P_i h_i) with g_i = sigmoid(a_i / temperature), a_i = 0 at the start.

    h_i: [batch, length, width], the output of backbone block i; z_i: [batch, length, side width]. The first rung makes
    z_0 = P_0 h_0 of the embedded tokens; the last one replaces the backbone's stream by U z_L.
    """

    def __init__(
        self, width: int, side: nn.Module, side_width: int, temperature: float, first: bool, last: bool
    ) -> None:
        super().__init__()
        self.start = nn.Linear(width, side_width, bias=False) if first else None
        self.down = nn.Linear(width, side_width, bias=False)
        self.gate = nn.Parameter(torch.zeros(1))
        self.block = side
        self.up = nn.Linear(side_width, width, bias=False) if last else None
        self.temperature = temperature
        init_linears(self)

    def forward(self, x: Tensor, y: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor]:
        if z is None:
            assert self.start is not None
            z = self.start(x)
        gate = torch.sigmoid(self.gate / self.temperature)
        z = self.block(gate * z + (1 - gate) * self.down(y))
        return (y if self.up is None else self.up(z)), z


@METHODS.add("lst")
@dataclass(frozen=True)
class LST(Method):
    """A transformer of width D / reduction and the backbone's depth and heads reads every frozen block (section 3).

    No gradient enters the backbone. Projections have no bias, as in the released CLIP code. U z_L takes the place of
    the backbone's last stream: the frozen final norm and the backbone's own pooling follow, where the paper's language
    models have a norm of their own. The side network starts from random numbers (std 0.02); the paper starts it from
    the backbone's own weights, pruned by Fisher importance. With k = D / reduction, L (12 k^2 + 13 k) + (L + 2) D k + L
    parameters on a plain ViT.
    """

    family: ClassVar[str] = "side"
    paper: ClassVar[str] = "arXiv:2206.06522"
    identity_at_init: ClassVar[bool] = False
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "Made for language models; the side network starts from random numbers, not from pruned weights."
    )

    reduction: int = option(8, ge=1)
    temperature: float = option(0.1, gt=0)

    def attach(self, backbone: Backbone) -> None:
        shape = backbone.shape
        width, heads, hidden = self._sizes(shape)
        for site in backbone.sites("block"):
            first, last = site.layer == 0, site.layer == shape.depth - 1
            side = small_block(width, heads, hidden)
            rung = Rung(shape.width, side, width, self.temperature, first, last)
            site.wrap(partial(SideBlock, step=rung, last=last, detach=True))

    def expected_params(self, shape: BackboneShape) -> int:
        k, _, hidden = self._sizes(shape)
        block = 4 * k**2 + 4 * k + 2 * k * hidden + hidden + k + 4 * k
        return shape.depth * (block + 1) + (shape.depth + 2) * shape.width * k

    def inert(self, backbone: Backbone) -> dict[str, slice]:
        """The key third of every side block's qkv bias, which softmax cancels."""
        found = {}
        for name, module in backbone.named_modules():
            if isinstance(module, Rung):
                k = module.down.out_features
                found[f"{name}.block.attn.qkv.bias"] = slice(k, 2 * k)
        return found

    def _sizes(self, shape: BackboneShape) -> tuple[int, int, int]:
        """Width, heads and MLP width of the side network."""
        if shape.family != "vit":
            raise NotApplicable(f"{self.name} runs one thin transformer along equal blocks; {shape.family} has stages")
        width, hidden = shape.width // self.reduction, shape.at("mlp.fc2")[0].in_dim // self.reduction
        if width == 0 or width % shape.num_heads:
            raise NotApplicable(
                f"the side network of {self.name} keeps the backbone's {shape.num_heads} heads, which do not divide "
                f"its width {width}; choose another method.reduction"
            )
        return width, shape.num_heads, hidden
