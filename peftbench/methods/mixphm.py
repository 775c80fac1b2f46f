"""MixPHM (Jiang and Zheng, CVPR 2023, arXiv:2303.01239): randomly drawn adapters of Kronecker products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.spec import option
from peftbench.interventions import Behind, refer, share
from peftbench.interventions.redundancy import Redundant
from peftbench.interventions.sequential import ACTIVATIONS
from peftbench.methods.base import METHODS, Method
from peftbench.methods.compacter import KroneckerLinear, Rules, kronecker_sum, require_divisible


class ExpertLinear(nn.Module):
    """x -> x W_e + b_e with W_e = sum_i A_i kron (u_ei v_ei), the expert e drawn anew at every training pass.

    Otherwise u, v and b are the means over the experts. All experts start as copies of one, which starts like
    Compacter's linear map: a product of means is near the means of products only where experts have a common origin.
    """

    rules: Rules

    def __init__(self, in_dim: int, out_dim: int, rules: Rules, rank: int, num_experts: int) -> None:
        super().__init__()
        refer(self, "rules", rules)
        first = KroneckerLinear(in_dim, out_dim, rules, rank)
        factors = (factor.detach() for factor in (first.left, first.right, first.bias))
        self.left, self.right, self.bias = (nn.Parameter(torch.stack([factor] * num_experts)) for factor in factors)

    def forward(self, x: Tensor) -> Tensor:
        factors: tuple[Tensor, ...] = (self.left, self.right, self.bias)
        if self.training:
            drawn = torch.randint(len(self.bias), (1,), device=x.device)
            factors = tuple(factor.index_select(0, drawn) for factor in factors)
        left, right, bias = (factor.mean(0) for factor in factors)
        return F.linear(x, kronecker_sum(self.rules.matrices, left, right).T, bias)


class MixedBottleneck(Redundant):
    """x -> scale * up(dropout(gelu(down(x)))), each projection with an expert of its own draw."""

    def __init__(self, down: ExpertLinear, up: ExpertLinear, dropout: float, scale: float, activation: str) -> None:
        super().__init__()
        self.down, self.up, self.activation = down, up, ACTIVATIONS[activation]
        self.dropout = nn.Dropout(dropout)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.scale * self.up(self.dropout(self.activation(self.down(x))))
        self.say_of(added, x)
        return added


@METHODS.add("mixphm")
@dataclass(frozen=True)
class MixPHM(Method):
    """y <- y + scale * up_e(dropout(gelu(down(y)))) behind the MLP, experts e drawn in training, averaged after it.

    Projections are sum_i A_i kron (u_i v_i) with `num_blocks` rules A_i shared by all layers, as in Compacter, and u_i
    v_i of the given rank. One projection is common to the experts (`shared`: in the released VQA v2 script the
    down-projection). Sizes are that script's; the dropout of 0.5 is the code's, which has GELU in its tanh form
    (`activation: gelu_tanh`). With d and u experts down and up,
    L (d ((D + h) r + h) + u ((D + h) r + D)) + t^3 parameters on a plain ViT, all of them counted, though only the mean
    remains after training.
    """

    family: ClassVar[str] = "adapter"
    paper: ClassVar[str] = "arXiv:2303.01239"
    version: ClassVar[int] = 2
    identity_at_init: ClassVar[bool] = False
    size_option: ClassVar[str] = "rank"
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "Made for questions answered by a T5, task=vqa_written here; behind the MLPs of any one tower as well, and its "
        "loss is objective=mixphm."
    )

    bottleneck: int = option(64, ge=1)
    num_experts: int = option(4, ge=1)
    num_blocks: int = option(4, ge=1)
    rank: int = option(8, ge=1)
    shared: str = option("down", choices=("down", "up", "none"))
    dropout: float = option(0.5, ge=0, lt=1)
    scale: float = option(1.0, gt=0)
    activation: str = option("gelu", choices=("gelu", "gelu_tanh"), later=True)

    def problems(self) -> Sequence[str]:
        if self.bottleneck % self.num_blocks:
            return [f"method.bottleneck={self.bottleneck} must be a multiple of method.num_blocks={self.num_blocks}"]
        return ()

    def _experts(self, projection: str) -> int:
        return 1 if self.shared == projection else self.num_experts

    def attach(self, backbone: Backbone) -> None:
        sites = backbone.sites("mlp")
        require_divisible(self.name, sites, self.num_blocks)
        rules = share(backbone, "rules", Rules(self.num_blocks))
        for site in sites:
            width, h = site.shape.out_dim, self.bottleneck
            down = ExpertLinear(width, h, rules, self.rank, self._experts("down"))
            up = ExpertLinear(h, width, rules, self.rank, self._experts("up"))
            adapter = MixedBottleneck(down, up, self.dropout, self.scale, self.activation)
            site.wrap(partial(Behind, module=adapter, channel_dim=site.channel_dim))

    def expected_params(self, shape: BackboneShape) -> int:
        h, down, up = self.bottleneck, self._experts("down"), self._experts("up")
        factors = [(site.out_dim, (site.out_dim + h) * self.rank) for site in shape.at("mlp")]
        return sum(down * (pair + h) + up * (pair + width) for width, pair in factors) + self.num_blocks**3
