"""KronA (Edalati et al., 2022, arXiv:2212.10650): Kronecker products on the query and value maps, or beside the MLP."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape, SiteShape
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import LinearDelta, Tap, tap_block
from peftbench.methods.base import METHODS, Method

Size = tuple[int, int]


class Kronecker(nn.Module):
    """x -> s (A kron B) x with A [a1, a2] and B [b1, b2], without building the product: A X B^T with x = X [a2, b2]."""

    def __init__(self, first: tuple[int, int], second: tuple[int, int], scale: float) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.zeros(first))
        self.second = nn.Parameter(torch.empty(second))
        nn.init.kaiming_uniform_(self.second, a=math.sqrt(5))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        rows = x.unflatten(-1, (self.first.shape[1], -1))
        return self.scale * (self.first @ (rows @ self.second.T)).flatten(-2)

    def weight(self) -> Tensor:
        """The matrix [a1 b1, a2 b2] that this adds to the frozen one."""
        return self.scale * torch.kron(self.first, self.second)


@dataclass(frozen=True)
class _KronAForm(Method):
    """What the forms of the paper share: where they come from, and the sizes of the factors."""

    paper: ClassVar[str] = "arXiv:2212.10650"
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "Made for T5, without released code; the zero factor and the shapes of the factors are chosen here."
    )

    rows: int | None = option(None, ge=1)
    columns: int | None = option(None, ge=1)
    scale: float = option(1.0, gt=0)


@METHODS.add("krona")
@dataclass(frozen=True)
class KronA(_KronAForm):
    """W' = W + s A kron B on q and v, A [a1, a2], B [out / a1, in / a2]. Folds exactly; unlike B A it has full rank.

    `rows` is a1 and `columns` a2. By default the factors are as square as the widths allow, which needs the fewest
    parameters: A [24, 32] and B [32, 24] at width 768. Of the factors A starts at zero and B kaiming-uniform, as the
    PEFT library does for its Kronecker form; there is no released code.
    """

    family: ClassVar[str] = "reparametrisation"
    mergeable: ClassVar[bool] = True

    def attach(self, backbone: Backbone) -> None:
        sites = backbone.sites("attn.qkv")
        for site in sites:
            self._factors(site.shape)
        for site in sites:
            first, second = self._factors(site.shape)
            deltas = {number: Kronecker(first, second, self.scale) for number in (0, 2)}
            site.wrap(partial(LinearDelta, deltas=deltas, num_slices=3))

    def _factors(self, site: SiteShape) -> tuple[Size, Size]:
        return factors(self.rows, self.columns, site.in_dim, site.out_dim // 3)

    def expected_params(self, shape: BackboneShape) -> int:
        shapes = [self._factors(site) for site in shape.at("attn.qkv")]
        return sum(2 * (a1 * a2 + b1 * b2) for (a1, a2), (b1, b2) in shapes)


class ScaledInput(nn.Module):
    """x -> module(x) + scale x with one learnable number, 0 at the start."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.module(x)
        return added + self.scale * x


@METHODS.add("krona_b")
@dataclass(frozen=True)
class KronAB(_KronAForm):
    """mlp'(x) = mlp(x) + s (A kron B) x, x the MLP's normed input, A [a1, a2], B [D / a1, D / a2] (KronA^B).

    Sizes and start of the factors are those of `krona`. Beside a network with an activation the product does not fold.
    L (a1 a2 + b1 b2) parameters.
    """

    family: ClassVar[str] = "adapter"

    def attach(self, backbone: Backbone) -> None:
        sites = backbone.sites("block")
        sizes = [factors(self.rows, self.columns, site.shape.out_dim, site.shape.out_dim) for site in sites]
        for site, (first, second) in zip(sites, sizes, strict=True):
            branch = self._branch(Kronecker(first, second, self.scale))
            site.wrap(partial(tap_block, taps=[Tap("mlp", branch, "inside")]))

    def _branch(self, product: Kronecker) -> nn.Module:
        return product

    def expected_params(self, shape: BackboneShape) -> int:
        shapes = [factors(self.rows, self.columns, site.out_dim, site.out_dim) for site in shape.at("block")]
        return sum(a1 * a2 + b1 * b2 for (a1, a2), (b1, b2) in shapes)


@METHODS.add("krona_b_res")
@dataclass(frozen=True)
class KronABRes(KronAB):
    """mlp'(x) = mlp(x) + s (A kron B) x + s_res x with one learnable s_res for each block (KronA^B_res).

    Where s_res starts is not known from what was read; here at 0, which leaves the function as it was.
    """

    def _branch(self, product: Kronecker) -> nn.Module:
        return ScaledInput(product)

    def expected_params(self, shape: BackboneShape) -> int:
        return super().expected_params(shape) + shape.depth


def factors(rows: int | None, columns: int | None, inside: int, outside: int) -> tuple[Size, Size]:
    """Shapes of A and B for a map inside -> outside. Raises `NotApplicable` where a given size does not divide it."""
    rows = rows or largest_divisor(outside, math.isqrt(outside))
    columns = columns or inside // largest_divisor(inside, math.isqrt(inside))
    for option_name, size, width in (("rows", rows, outside), ("columns", columns, inside)):
        if width % size:
            raise NotApplicable(f"method.{option_name} = {size} does not divide the width {width}")
    return (rows, columns), (outside // rows, inside // columns)


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` that is at most `limit`."""
    return next(size for size in range(limit, 0, -1) if number % size == 0)
