"""Mona (Yin et al., CVPR 2025): adapters with several depthwise convolutions on the residual stream."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.spec import option
from peftbench.interventions import Tap, TokenGrid, tap_block
from peftbench.methods.base import METHODS, Method
from peftbench.methods.inert import idle_taps

KERNELS = (3, 5, 7)


class MonaAdapter(nn.Module):
    """x -> x + up(dropout(gelu(f(down(g * LN(x) + g' * x))))) with f two convolutional residuals in the bottleneck.

    f(u) = w + pointwise(w) with w = u + (dw3(u) + dw5(u) + dw7(u)) / 3. x: [batch, prefix + patches, width] or
    [batch, height, width, channels]. g starts at 1e-6 and g' at 1; linears are truncated normal with std 0.02 and
    zero bias, convolutions PyTorch's default.
    """

    def __init__(self, width: int, bottleneck: int, grid: TokenGrid, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.norm_scale = nn.Parameter(torch.full((width,), 1e-6))
        self.skip_scale = nn.Parameter(torch.ones(width))
        self.down = nn.Linear(width, bottleneck)
        self.depthwise = nn.ModuleList(
            nn.Conv2d(bottleneck, bottleneck, size, padding=size // 2, groups=bottleneck) for size in KERNELS
        )
        self.pointwise = nn.Conv2d(bottleneck, bottleneck, 1)
        self.up = nn.Linear(bottleneck, width)
        self.dropout = nn.Dropout(dropout)
        self.grid = grid
        for linear in (self.down, self.up):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def _filter(self, maps: Tensor) -> Tensor:
        """f on maps [batch, bottleneck, height, width]; the mean of three kernels is one kernel of the largest size."""
        padded = [F.pad(conv.weight, [(KERNELS[-1] - size) // 2] * 4) for conv, size in self._convolutions()]
        kernel = torch.stack(padded).mean(0)
        bias = torch.stack([conv.bias for conv, _ in self._convolutions()]).mean(0)  # type: ignore[misc]
        maps = maps + F.conv2d(maps, kernel, bias, padding=KERNELS[-1] // 2, groups=len(kernel))
        filtered: Tensor = maps + self.pointwise(maps)
        return filtered

    def _convolutions(self) -> list[tuple[nn.Conv2d, int]]:
        return list(zip(self.depthwise, KERNELS, strict=True))  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.down(self.norm_scale * self.norm(x) + self.skip_scale * x)
        hidden = self.grid.apply(self._filter, hidden)
        added: Tensor = self.up(self.dropout(F.gelu(hidden)))
        return x + added


@METHODS.add("mona")
@dataclass(frozen=True)
class Mona(Method):
    """x <- Mona(x) on the stream behind every residual addition of a block.

    2 L (5 D + 2 D h + h^2 + 88 h) parameters on a plain ViT. Not the identity at the start. The paper has Swin only;
    for plain ViTs the class token and registers go through the convolutions as 1 x 1 maps (an adaptation), and a
    ConvNeXt block, with one residual addition, has one Mona.
    """

    family: ClassVar[str] = "adapter"
    paper: ClassVar[str] = "arXiv:2408.08345"
    identity_at_init: ClassVar[bool] = False
    size_option: ClassVar[str] = "bottleneck"
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "The paper has Swin only; on a plain ViT the class token and registers pass the convolutions as 1 x 1 maps."
    )

    at_home: ClassVar[tuple[str, ...]] = ("swin",)

    bottleneck: int = option(64, ge=1)
    dropout: float = option(0.1, ge=0, lt=1)

    def attach(self, backbone: Backbone) -> None:
        grid = TokenGrid.of_times(backbone.shape)
        halves = backbone.shape.at("attn", "mlp")
        for site in backbone.sites("block"):
            taps = [
                Tap(half.role, MonaAdapter(half.out_dim, self.bottleneck, grid, self.dropout), "stream")
                for half in halves
                if half.layer == site.layer
            ]
            site.wrap(partial(tap_block, taps=taps))

    def expected_params(self, shape: BackboneShape) -> int:
        h = self.bottleneck
        return sum(5 * half.out_dim + 2 * half.out_dim * h + h**2 + 88 * h for half in shape.at("attn", "mlp"))

    def inert(self, backbone: Backbone) -> dict[str, Tensor]:
        """The outer taps in the last block, where a class token alone is read behind them."""
        return idle_taps(backbone)
