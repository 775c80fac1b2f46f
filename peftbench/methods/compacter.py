"""Compacter (Karimi Mahabadi et al., NeurIPS 2021, arXiv:2106.04647): adapters of sums of Kronecker products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape, Site
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import Behind, refer, share
from peftbench.interventions.sequential import ACTIVATIONS
from peftbench.methods.base import METHODS, Method


class Rules(nn.Module):
    """The matrices A_1 ... A_t, `matrices` [t, t, t], which all adapters share; drawn from N(0, 0.01^2)."""

    def __init__(self, num_blocks: int) -> None:
        super().__init__()
        self.matrices = nn.Parameter(0.01 * torch.randn(num_blocks, num_blocks, num_blocks))


def kronecker_sum(rules: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """sum_i A_i kron (u_i v_i) [in, out] from A [t, t, t], u [t, in / t, rank] and v [t, rank, out / t]."""
    return torch.einsum("iab,ikr,irl->akbl", rules, left, right).flatten(2).flatten(0, 1)


class KroneckerLinear(nn.Module):
    """x -> x W + b with W = sum_i A_i kron (u_i v_i), W [in, out], u_i [in / t, rank], v_i [rank, out / t].

    u_i and v_i are xavier-uniform with gain sqrt(2), b is zero.
    """

    rules: Rules

    def __init__(self, in_dim: int, out_dim: int, rules: Rules, rank: int) -> None:
        super().__init__()
        blocks = len(rules.matrices)
        refer(self, "rules", rules)
        self.left = nn.Parameter(torch.empty(blocks, in_dim // blocks, rank))
        self.right = nn.Parameter(torch.empty(blocks, rank, out_dim // blocks))
        self.bias = nn.Parameter(torch.zeros(out_dim))
        for factor in [*self.left, *self.right]:
            nn.init.xavier_uniform_(factor, gain=math.sqrt(2))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, kronecker_sum(self.rules.matrices, self.left, self.right).T, self.bias)


class KroneckerBottleneck(nn.Module):
    """x -> up(act(down(x))) with both projections from the same rules; `activation` is one of `ACTIVATIONS`."""

    def __init__(self, width: int, bottleneck: int, rules: Rules, rank: int, activation: str) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.down = KroneckerLinear(width, bottleneck, rules, rank)
        self.up = KroneckerLinear(bottleneck, width, rules, rank)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.up(self.activation(self.down(x)))
        return added


@METHODS.add("compacter")
@dataclass(frozen=True)
class Compacter(Method):
    """y <- y + up(gelu(down(y))) behind attention and the MLP, with weights sum_i A_i kron (u_i v_i).

    t = `num_blocks` rules A_i [t, t] are shared by all layers and both projections. 2 L (2 (D + h) r + h + D) + t^3
    parameters on a plain ViT. The added path is small but not silent at the start. The paper (T5) takes t = 4, rank 1
    and width / 32, which is 24 for width 768; it also trains the layer norms, which is left out here. Its code has
    GELU in its tanh form (`activation: gelu_tanh`).
    """

    family: ClassVar[str] = "adapter"
    paper: ClassVar[str] = "arXiv:2106.04647"
    identity_at_init: ClassVar[bool] = False
    roles: ClassVar[tuple[str, ...]] = ("attn", "mlp")
    size_option: ClassVar[str] = "bottleneck"
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "Made for T5, whose layer norms train as well; here behind attention and MLP of a pre-norm block, norms frozen."
    )

    bottleneck: int = option(24, ge=1)
    num_blocks: int = option(4, ge=1)
    rank: int = option(1, ge=1)
    activation: str = option("gelu", choices=("gelu", "gelu_tanh"), later=True)

    def problems(self) -> Sequence[str]:
        if self.bottleneck % self.num_blocks:
            return [f"method.bottleneck={self.bottleneck} must be a multiple of method.num_blocks={self.num_blocks}"]
        return ()

    def attach(self, backbone: Backbone) -> None:
        sites = [site for role in self.roles for site in backbone.sites(role)]
        require_divisible(self.name, sites, self.num_blocks)
        rules = share(backbone, "rules", Rules(self.num_blocks))
        for site in sites:
            adapter = KroneckerBottleneck(site.shape.out_dim, self.bottleneck, rules, self.rank, self.activation)
            site.wrap(partial(Behind, module=adapter, channel_dim=site.channel_dim))

    def expected_params(self, shape: BackboneShape) -> int:
        h = self.bottleneck
        adapters = sum(2 * (site.out_dim + h) * self.rank + h + site.out_dim for site in shape.at(*self.roles))
        return adapters + self.num_blocks**3


def require_divisible(name: str, sites: Sequence[Site], num_blocks: int) -> None:
    """Raises `NotApplicable` unless all outputs can be cut into `num_blocks` equal parts."""
    for width in {site.shape.out_dim for site in sites}:
        if width % num_blocks:
            raise NotApplicable(f"{name} cannot cut width {width} into {num_blocks} blocks")
