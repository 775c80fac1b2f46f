"""HST (Lin et al., arXiv:2310.05393): hierarchical side-tuning, a small pyramid that reads a plain transformer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape, unfreeze
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.foundation.two_images import require_two_images
from peftbench.interventions import MetaTokens, TokenGrid, Unused, WithImages
from peftbench.interventions.noise import DropPath
from peftbench.interventions.side import init_linears
from peftbench.methods.base import METHODS, Method

# the released pyramid: width and heads of the stages at strides 4, 8, 16 and 32
WIDTHS, HEADS = (32, 48, 64, 72), (2, 4, 8, 12)
Kept = tuple[tuple[Tensor, Tensor], ...]


class PyramidBlock(nn.Module):
    """s = s + attention(LN(s), guide); s = s + m; s = s + mlp(LN(s)), where the side tokens only ask.

    s and m: [batch, positions, width], the side tokens and the backbone's projected map at their size. guide: [batch,
    num_tokens + 1, width], the projected meta tokens behind the block's own LayerNorm and the mean of m. Stochastic
    depth drops attention and MLP, never m.
    """

    def __init__(self, width: int, num_heads: int, mlp_ratio: int, drop_path: float) -> None:
        super().__init__()
        self.norm_meta = nn.LayerNorm(width)
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, mlp_ratio * width), nn.GELU(), nn.Linear(mlp_ratio * width, width))
        self.num_heads, self.drop_path = num_heads, DropPath(drop_path)

    def forward(self, s: Tensor, meta: Tensor, m: Tensor) -> Tensor:
        guide = torch.cat([self.norm_meta(meta), m.mean(dim=1, keepdim=True)], dim=1)
        heads = [part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in self._ask(self.norm1(s), guide)]
        s = s + self.drop_path(self.proj(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)))
        s = s + m
        out: Tensor = s + self.drop_path(self.mlp(self.norm2(s)))
        return out

    def _ask(self, s: Tensor, guide: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        keys, values = self.kv(guide).chunk(2, dim=-1)
        return self.q(s), keys, values


class Stage(nn.Module):
    """Downsampling, then one block for each backbone block of the stage; all of them share one projection (bridge)."""

    def __init__(
        self, down: nn.Module, in_dim: int, width: int, num_heads: int, mlp_ratio: int, drop_paths: list[float]
    ) -> None:
        super().__init__()
        self.down, self.norm_down = down, nn.LayerNorm(width)
        self.bridge = nn.Linear(in_dim, width)
        self.blocks = nn.ModuleList(PyramidBlock(width, num_heads, mlp_ratio, drop) for drop in drop_paths)
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, maps: Tensor, kept: Kept, grid: TokenGrid) -> Tensor:
        """maps [batch, channels, height, width] and what the backbone's blocks kept -> maps of this stage."""
        maps = self.down(maps)
        size = maps.shape[2:]
        s = self.norm_down(maps.flatten(2).transpose(1, 2))
        for block, (meta, tokens) in zip(self.blocks, kept, strict=True):
            # Projecting at the backbone's resolution and resizing then is the same, and far cheaper.
            _, projected = grid.split(self.bridge(tokens))
            projected = F.interpolate(projected, size=size, mode="bilinear", align_corners=False)
            s = block(s, self.bridge(meta), projected.flatten(2).transpose(1, 2))
        return self.norm(s).transpose(1, 2).unflatten(2, size)


class Pyramid(nn.Module):
    """Readout: (images, what each backbone block kept) -> [batch, width of the last stage]."""

    def __init__(self, shape: BackboneShape, mlp_ratio: int, drop_path: float) -> None:
        super().__init__()
        drop_paths = torch.linspace(0, drop_path, shape.depth, device="cpu").tolist()
        self.grid, self.stages = TokenGrid.of(shape), nn.ModuleList()
        self.depths = depths_of(shape)
        width = WIDTHS[0]
        down: nn.Module = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 2, stride=2),
        )
        for number, depth in enumerate(self.depths):
            if number:
                down = nn.Conv2d(width, WIDTHS[number], 3, stride=2, padding=1)
            width = WIDTHS[number]
            drops, drop_paths = drop_paths[:depth], drop_paths[depth:]
            self.stages.append(Stage(down, shape.width, width, HEADS[number], mlp_ratio, drops))
        self.norm = nn.BatchNorm1d(width, affine=False, eps=1e-6)
        init_linears(self)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=math.sqrt(2 / (module.weight[0, 0].numel() * module.out_channels)))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def map_widths(self) -> tuple[int, ...]:
        return WIDTHS[: len(self.stages)]

    def forward(self, seen: tuple[Tensor, tuple[Tensor, Kept]]) -> Tensor:
        require_two_images(self, seen[0].shape[0], "hst has a batch norm")
        return self.norm(self.maps(seen)[-1].mean(dim=(2, 3)))

    def maps(self, seen: tuple[Tensor, tuple[Tensor, Kept]]) -> list[Tensor]:
        """What every stage gives, [batch, width, height, width] at strides 4, 8, 16 and 32."""
        x, (_, kept) = seen
        maps = []
        for stage, depth in zip(self.stages, self.depths, strict=True):
            x, kept = stage(x, kept[:depth], self.grid), kept[depth:]
            maps.append(x)
        return maps


def depths_of(shape: BackboneShape) -> list[int]:
    """Blocks of each stage: the backbone's blocks in four equal parts (3 each of 12), fewer parts below four blocks."""
    num_stages = min(len(WIDTHS), shape.depth)
    stages = [layer * num_stages // shape.depth for layer in range(shape.depth)]
    return [stages.count(stage) for stage in range(num_stages)]


@METHODS.add("hst")
@dataclass(frozen=True)
class HST(Method):
    """A pyramid at strides 4 to 32 on the pixels, guided block by block by the backbone; its mean is the feature.

    Every backbone block gets one meta token, which is cut off behind it and kept; all LayerNorms of the blocks train as
    well, so the gradient does go through the backbone. Widths, heads and eps are those of the released code.
    `drop_path` is the stochastic depth of the pyramid's last block and falls to 0 at its first; the released runs set
    it as that of the backbone (`train.drop_path`), by task to 0, 0.1 or 0.2. Meta tokens are xavier-uniform, linear
    maps truncated normal with std 0.02, convolutions normal with std sqrt(2 / fan out). Training needs at least two
    images in a batch (batch norm).
    """

    family: ClassVar[str] = "side"
    paper: ClassVar[str] = "arXiv:2310.05393"
    identity_at_init: ClassVar[bool] = False
    pools_itself: ClassVar[bool] = True

    num_tokens: int = option(1, ge=1)
    mlp_ratio: int = option(4, ge=1)
    drop_path: float = option(0.0, ge=0, lt=1, later=True)

    def attach(self, backbone: Backbone) -> None:
        shape = backbone.shape
        if shape.family != "vit":
            raise NotApplicable(f"{self.name} builds a pyramid beside a flat network; {shape.family} is one itself")
        for role in ("norm.1", "norm.2"):
            unfreeze(*(site.module for site in backbone.sites(role)))
        for site in backbone.sites("block"):
            site.wrap(partial(MetaTokens, num_tokens=self.num_tokens, width=shape.width))
        for site in backbone.sites("norm.final"):
            site.wrap(Unused)
        backbone.net = WithImages(backbone.net)
        pyramid = Pyramid(shape, self.mlp_ratio, self.drop_path)
        backbone.readout, backbone.feature_dim = pyramid, pyramid.norm.num_features

    def expected_params(self, shape: BackboneShape) -> int:
        depths, ratio = depths_of(shape), self.mlp_ratio
        norms = sum((2 if site.has_bias else 1) * site.out_dim for site in shape.at("norm.1", "norm.2"))
        total = norms + shape.depth * self.num_tokens * shape.width
        below = WIDTHS[0]
        total += 3 * 9 * below + 2 * below + 4 * below**2 + below
        for number, depth in enumerate(depths):
            k = WIDTHS[number]
            total += 9 * below * k + k if number else 0
            block = 6 * k + 4 * k**2 + 4 * k + 2 * ratio * k**2 + ratio * k + k
            total += 2 * k + shape.width * k + k + depth * block + 2 * k
            below = k
        return total

    def inert(self, backbone: Backbone) -> dict[str, slice]:
        """The key half of every kv bias of the pyramid, which softmax cancels."""
        found = {}
        for name, module in backbone.named_modules():
            if isinstance(module, PyramidBlock):
                found[f"{name}.kv.bias"] = slice(0, module.q.out_features)
        return found
