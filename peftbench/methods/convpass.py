"""Convpass (Jie and Deng, arXiv:2207.07039): convolutional bottlenecks parallel to attention and the MLP."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import Tap, TokenGrid, tap_block
from peftbench.interventions.sequential import quick_gelu
from peftbench.methods.base import METHODS, Method
from peftbench.methods.inert import idle_taps


class ConvBypass(nn.Module):
    """z -> scale * up(dropout(act(conv(act(down(z)))))) with a 3 x 3 convolution over the patches, act = QuickGELU.

    z: [batch, prefix + patches, width] or [batch, height, width, channels]. down is xavier-uniform, up and all biases
    zero, conv the identity or xavier-uniform.
    """

    def __init__(
        self, width: int, bottleneck: int, grid: TokenGrid, scale: float, dropout: float, conv_init: str
    ) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.conv = nn.Conv2d(bottleneck, bottleneck, 3, padding=1)
        self.up = nn.Linear(bottleneck, width)
        self.dropout = nn.Dropout(dropout)
        self.grid, self.scale = grid, scale
        nn.init.xavier_uniform_(self.down.weight)
        if conv_init == "identity":
            nn.init.dirac_(self.conv.weight)
        else:
            nn.init.xavier_uniform_(self.conv.weight)
        nn.init.zeros_(self.up.weight)
        for layer in (self.down, self.conv, self.up):
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, z: Tensor) -> Tensor:
        hidden = self.grid.apply(self.conv, quick_gelu(self.down(z)))
        return self.scale * self.up(self.dropout(quick_gelu(hidden)))


@METHODS.add("convpass")
@dataclass(frozen=True)
class Convpass(Method):
    """x = x + half(x) + bypass(norm(x)) for both halves of a block.

    The bypass reads the half's normed input and has its own draw of stochastic depth, as in the released code;
    it stays outside LayerScale, which the paper's networks lack. Class token and registers are 1 x 1 maps.
    2 L (2 D h + 2 h + D + 9 h^2) parameters on a plain ViT. The paper picks `scale` in {0.01, 0.1, 1, 10, 100} and
    `conv_init` for each task.
    """

    family: ClassVar[str] = "adapter"
    paper: ClassVar[str] = "arXiv:2207.07039"
    halves: ClassVar[tuple[str, ...]] = ("attn", "mlp")
    size_option: ClassVar[str] = "bottleneck"

    bottleneck: int = option(8, ge=1)
    scale: float = option(1.0, gt=0)
    dropout: float = option(0.1, ge=0, lt=1)
    conv_init: str = option("identity", choices=("identity", "xavier"))

    def attach(self, backbone: Backbone) -> None:
        if not backbone.shape.at("attn"):
            raise NotApplicable(f"{self.name} gives attention a convolution; {backbone.shape.family} has no attention")
        grid = TokenGrid.of_times(backbone.shape)
        for site in backbone.sites("block"):
            taps = [Tap(half, self._bypass(site.shape.out_dim, grid), drop_path=True) for half in self.halves]
            site.wrap(partial(tap_block, taps=taps))

    def _bypass(self, width: int, grid: TokenGrid) -> ConvBypass:
        return ConvBypass(width, self.bottleneck, grid, self.scale, self.dropout, self.conv_init)

    def expected_params(self, shape: BackboneShape) -> int:
        h = self.bottleneck
        return sum(2 * site.out_dim * h + 2 * h + site.out_dim + 9 * h**2 for site in shape.at(*self.halves))

    def inert(self, backbone: Backbone) -> dict[str, Tensor]:
        """The outer taps in the last block, where a class token alone is read behind them."""
        return idle_taps(backbone)


@METHODS.add("convpass_attn")
@dataclass(frozen=True)
class ConvpassAttn(Convpass):
    """Convpass parallel to attention only: half the parameters."""

    halves: ClassVar[tuple[str, ...]] = ("attn",)
