"""KAdaptation (He et al., AAAI 2023, arXiv:2203.16329): sums of Kronecker products with rules shared by all layers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.spec import option
from peftbench.interventions import LinearDelta, refer, share
from peftbench.methods.base import METHODS, Method


class Rules(nn.Module):
    """The slow weights A_i = a_i a'_i^T, i = 1..t: a and a' as rows of [t, t], drawn from U(-0.01, 0.01)."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.empty(number, number).uniform_(-0.01, 0.01))
        self.right = nn.Parameter(torch.empty(number, number).uniform_(-0.01, 0.01))


class Bias(nn.Module):
    """One vector that a layer's query and value deltas both add, 0 at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(width))


class KroneckerSum(nn.Module):
    """x -> factor (s sum_i A_i kron (u_i v_i^T) x + b).

    Every factor has rank one, so term i is the outer product of a_i kron u_i and a'_i kron v_i and the sum has rank t.
    """

    rules: Rules
    bias: Bias

    def __init__(self, rules: Rules, bias: Bias, width: int, scale: float, dropout: float, factor: float) -> None:
        super().__init__()
        refer(self, "rules", rules)
        refer(self, "bias", bias)
        number = len(rules.left)
        self.left = nn.Parameter(torch.empty(number, width // number))
        self.right = nn.Parameter(torch.zeros(number, width // number))
        nn.init.kaiming_uniform_(self.left, a=math.sqrt(5))
        self.scale, self.factor = factor * scale, factor
        self.dropout = nn.Dropout(dropout)

    def _pair(self) -> tuple[Tensor, Tensor]:
        """The vectors a_i kron u_i and a'_i kron v_i as rows: two matrices [t, width]."""
        up = self.rules.left.unsqueeze(2) * self.left.unsqueeze(1)
        down = self.rules.right.unsqueeze(2) * self.right.unsqueeze(1)
        return up.flatten(1), down.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.dropout.p:
            return F.linear(x, self.dropout(self.weight()), self.offset())
        up, down = self._pair()
        return self.scale * F.linear(F.linear(x, down), up.T) + self.offset()

    def weight(self) -> Tensor:
        """The matrix [width, width] that this adds to the frozen one."""
        up, down = self._pair()
        return self.scale * up.T @ down

    def offset(self) -> Tensor:
        """What this adds without input: [width]."""
        return self.bias.values if self.factor == 1 else self.factor * self.bias.values


@METHODS.add("kadaptation")
@dataclass(frozen=True)
class KAdaptation(Method):
    """W' = W + s sum_i A_i kron (u_i v_i^T) on q and v, i = 1..t, and b' = b + b_l (section 4.2).

    The rules A_i (one set for q, one for v) are shared by all layers; u_i and v_i [D / t] belong to a layer, b_l to its
    q and v together. L (4 D + D) + 4 t^2 parameters. Scale 160 = 5 * 128 / 4 and the dropout on the assembled matrix
    are the released code's; there u and v both start at zero and so never move. Here u is kaiming-uniform and v zero. t
    is the largest common divisor of the widths up to `num_rules`. The release adds the query's delta behind the
    division by sqrt(d), d the width of a head, where it weighs sqrt(d) times as much: `queries` scaled. There x is
    multiplied from the right, so that its left factors are the right ones here. Left out, since it is a slip: its
    deltas [tokens, images, D] are cut into heads as though images came first, which mixes the images of a batch; and
    that the value's delta is made of the query's u and v (`Wv` is made and not read), so that its own never train.
    """

    family: ClassVar[str] = "reparametrisation"
    paper: ClassVar[str] = "arXiv:2203.16329"
    mergeable: ClassVar[bool] = True
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "The factors u start off zero, where the released code starts u and v at zero and neither gets a gradient; "
        "the query's delta is part of W_q, as in the paper's equation, where the code adds it behind 1 / sqrt(d); the "
        "value's delta has its own factors, where the code takes the query's."
    )

    num_rules: int = option(32, ge=1)
    scale: float = option(160.0, gt=0)
    dropout: float = option(0.5, ge=0, lt=1)
    queries: str = option("plain", choices=("plain", "scaled"), later=True)

    def attach(self, backbone: Backbone) -> None:
        sites = backbone.sites("attn.qkv")
        number = self._number(backbone.shape)
        rules = {part: share(backbone, f"rules_{name}", Rules(number)) for name, part in (("q", 0), ("v", 2))}
        for site, attention in zip(sites, backbone.sites("attn"), strict=True):
            width = site.shape.in_dim
            heads: int = attention.module.num_heads  # type: ignore[assignment]
            factors = {0: math.sqrt(width / heads) if self.queries == "scaled" else 1.0, 2: 1.0}
            bias = share(backbone, f"bias_{site.layer}", Bias(width))
            deltas = {
                part: KroneckerSum(rules[part], bias, width, self.scale, self.dropout, factors[part]) for part in rules
            }
            site.wrap(partial(LinearDelta, deltas=deltas, num_slices=3))

    def _number(self, shape: BackboneShape) -> int:
        common = math.gcd(*(site.in_dim for site in shape.at("attn.qkv")))
        return next(number for number in range(self.num_rules, 0, -1) if common % number == 0)

    def expected_params(self, shape: BackboneShape) -> int:
        return sum(5 * site.in_dim for site in shape.at("attn.qkv")) + 4 * self._number(shape) ** 2
