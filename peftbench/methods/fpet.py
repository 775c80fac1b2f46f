"""FPET (Kim et al., CVPR 2025, arXiv:2503.20282): half of the patches are merged into the others half way."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape, Readout
from peftbench.foundation.channels import channels_last
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import Intervention, LinearDelta, Tap, TokenGrid, require_plain, tap_block
from peftbench.interventions.attention import attend_self, heads_of
from peftbench.interventions.block import halves
from peftbench.methods.base import METHODS, Method
from peftbench.methods.binary import FewBitPair, HiddenDropoutPair

# width of the one-bit bottleneck that refines the keys by which patches are compared
REFINEMENT = 32


@dataclass(frozen=True)
class Matching:
    """To which of the kept tokens each given patch goes, softly in the gradient: [batch, given, prefix + kept]."""

    grid: TokenGrid
    shares: Tensor

    def merged(self, x: Tensor) -> Tensor:
        """Tokens [batch, prefix + patches, width] -> [batch, prefix + kept, width]: sums over what was merged."""
        given, kept = checkerboard(self.grid, x)
        return kept + self.shares.transpose(1, 2) @ given


def checkerboard(grid: TokenGrid, x: Tensor) -> tuple[Tensor, Tensor]:
    """The patches whose row and column are both even or both odd; prefix tokens with the other patches."""
    prefix, maps = grid.split(x)
    patches = channels_last(maps, 1)
    given = [patches[:, start::2, start::2].flatten(1, 2) for start in (0, 1)]
    kept = [patches[:, 1 - start :: 2, start::2].flatten(1, 2) for start in (0, 1)]
    return torch.cat(given, dim=1), torch.cat([prefix, *kept], dim=1)


def match(grid: TokenGrid, keys: Tensor) -> Matching:
    """By the cosines of keys [batch, prefix + patches, head_dim]; prefix tokens take no patch.

    A cosine above the mean of a patch's two largest ones counts as one in the forward pass, else as none; the gradient
    is that of the sigmoid of the distance.
    """
    given, kept = checkerboard(grid, keys / keys.norm(dim=-1, keepdim=True))
    cosines = given @ kept.transpose(1, 2)
    barred = torch.arange(cosines.shape[-1], device=cosines.device) < grid.num_prefix
    cosines = cosines.masked_fill(barred, float("-inf"))
    between = cosines.topk(2, dim=-1).values.mean(dim=-1, keepdim=True)
    soft = (cosines - between).sigmoid()
    return Matching(grid, soft + ((soft > 0.5).to(soft.dtype) - soft).detach())


class MergingBlock(Intervention):
    """A plain block between whose halves patches are merged: [batch, prefix + patches, width] -> half of the patches.

    A token becomes the mean of what was merged into it. How many that are, [batch, tokens], goes on with the tokens,
    but for the last block. `branch` stands beside the MLP.
    """

    def __init__(self, base: nn.Module, grid: TokenGrid, refinement: nn.Module, branch: nn.Module | None) -> None:
        super().__init__(base)
        require_plain(base.get_submodule("attn"))
        self.grid, self.refinement, self.branch = grid, refinement, branch

    def forward(self, x: Tensor, **arguments: Any) -> tuple[Tensor, Tensor]:
        block: Any = self.base
        attn, mlp = halves(block, arguments).values()
        seen = attn.norm(x)
        heads = heads_of(block.attn, seen)
        x = x + attn.drop(attn.scale(attend_self(block.attn, seen, heads, **arguments)))
        keys = heads[1].mean(dim=1).detach()
        matching = match(self.grid, keys + self.refinement(keys))
        sizes = matching.merged(torch.ones_like(x[..., :1]))
        x = matching.merged(x) / sizes
        y = x + mlp.added(x)
        return y if self.branch is None else y + self.branch(x), sizes.squeeze(-1)


class WithSizes(Intervention):
    """A plain block of merged tokens. With `proportional`, log(size) is added to all scores of a key.

    (tokens, sizes) -> the same, or the tokens alone behind the last block.
    """

    def __init__(self, base: nn.Module, proportional: bool, last: bool) -> None:
        super().__init__(base)
        self.proportional, self.last = proportional, last

    def forward(self, x: tuple[Tensor, Tensor], **arguments: Any) -> Tensor | tuple[Tensor, Tensor]:
        tokens, sizes = x
        if self.proportional:
            arguments["attn_mask"] = sizes.log()[:, None, None].to(tokens.dtype)
        y: Tensor = self.base(tokens, **arguments)
        return y if self.last else (y, sizes)


class MergedReadout(Readout):
    """The network's own pooling of its class token."""

    no_maps = "it merges patches, so that what is left lies on no grid: there are no maps to train"


def require_mergeable(name: str, backbone: Backbone) -> None:
    """Raises `NotApplicable` where patches cannot be merged into others."""
    if backbone.shape.family != "vit":
        raise NotApplicable(f"{name} merges tokens of one sequence; {backbone.shape.family} has windows or maps")
    if backbone.turns_keys:
        raise NotApplicable(f"{name} merges patches, which then have no place for rotary embeddings")
    if backbone.pairs_places:
        raise NotApplicable(f"{name} merges patches, which then have no place for relative positions")
    if backbone.num_pooled is None:
        raise NotApplicable(f"{name} merges patches, which this network averages; it needs a class token")


@METHODS.add("fpet")
@dataclass(frozen=True)
class FPET(Method):
    """AdaptFormer or LoRA on fewer tokens: between attention and MLP of block `layer` half of the patches merge.

    The patches of one colour of a checkerboard each go to the most similar one of the other, by the mean keys of all
    heads, which a bottleneck of one bit refines (x + B relu(A x), width 32); the gradient reaches it through a
    straight-through sigmoid. Blocks behind it see half of the patches, weighed by how many they stand for. `layer`
    counts from 0, the release's 6 of 12, by default the middle. `adapter` stands as released: without biases, dropout
    on its hidden layer, beside the MLP on the stream (adaptformer) or on q and v (lora). 2 L D h + 64 d parameters with
    adaptformer, 4 L D h + 64 d with lora, d the width of a head. `bits` below 32 are those of binary adapters (with
    `bottleneck` 32 in the release).
    """

    family: ClassVar[str] = "adapter"
    paper: ClassVar[str] = "arXiv:2503.20282"
    identity_at_init: ClassVar[bool] = False
    shortens: ClassVar[bool] = True
    size_option: ClassVar[str] = "bottleneck"

    adapter: str = option("adaptformer", choices=("adaptformer", "lora"))
    bottleneck: int = option(8, ge=1)
    scale: float = option(1.0, gt=0)
    dropout: float = option(0.1, ge=0, lt=1)
    layer: int | None = option(None, ge=1)
    proportional: bool = option(True)
    bits: str = option("32", choices=("1", "2", "4", "8", "32"))

    def attach(self, backbone: Backbone) -> None:
        shape = backbone.shape
        grid, merging = self._grid(backbone), self._layer(shape)
        for site in backbone.sites("attn.qkv") if self.adapter == "lora" else []:
            deltas = {number: self._pair(site.shape.in_dim, site.shape.out_dim // 3, "none") for number in (0, 2)}
            site.wrap(partial(LinearDelta, deltas=deltas, num_slices=3))
        for site in backbone.sites("block"):
            branch = self._pair(shape.width, shape.width, "relu") if self.adapter == "adaptformer" else None
            last = site.layer == shape.depth - 1
            if site.layer == merging:
                head_dim = shape.width // shape.num_heads
                refinement = FewBitPair(head_dim, head_dim, REFINEMENT, 1, 1.0, self.dropout, "relu")
                site.wrap(partial(MergingBlock, grid=grid, refinement=refinement, branch=branch))
                continue
            if branch is not None:
                site.wrap(partial(tap_block, taps=[Tap("mlp", branch, reads="raw")]))
            if site.layer > merging:
                site.wrap(partial(WithSizes, proportional=self.proportional, last=last))
        backbone.readout = MergedReadout(backbone.net)

    def _pair(self, in_dim: int, out_dim: int, activation: str) -> nn.Module:
        if self.bits == "32":
            return HiddenDropoutPair(in_dim, out_dim, self.bottleneck, self.scale, self.dropout, activation)
        bits = int(self.bits)
        return FewBitPair(in_dim, out_dim, self.bottleneck, bits, self.scale, self.dropout, activation)

    def _layer(self, shape: BackboneShape) -> int:
        """The block that merges. It is not the last one, behind which fewer tokens would spare nothing."""
        layer = shape.depth // 2 if self.layer is None else self.layer
        if not 0 < layer < shape.depth - 1:
            raise NotApplicable(
                f"{self.name} merges between the first and the last block, which are 0 and {shape.depth - 1} here, "
                f"not in block {layer}; choose another method.layer"
            )
        return layer

    def _grid(self, backbone: Backbone) -> TokenGrid:
        require_mergeable(self.name, backbone)
        grid = TokenGrid.of(backbone.shape)
        if min(grid.size) < 2:
            raise NotApplicable(f"{self.name} merges patches of a checkerboard; a grid of {grid.size} has none")
        return grid

    def expected_params(self, shape: BackboneShape) -> int:
        head_dim = shape.width // shape.num_heads
        own = 2 * shape.depth * shape.width * self.bottleneck
        return (own if self.adapter == "adaptformer" else 2 * own) + 2 * REFINEMENT * head_dim
