"""HyperAdapter (Tenagyei et al., arXiv:2606.22383): tokens are gathered into groups, which a bottleneck adapts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import Tap, tap_block
from peftbench.methods.base import METHODS, Method

HALVES = ("attn", "mlp")


class Hyperedges(nn.Module):
    """x -> A U with A = softmax(cos(x, p) / temperature) over the prototypes p, U = up(gelu(down(E))), E = means of x.

    E_k is the mean of all tokens [batch, ..., width] weighted by their share A_k in prototype k. `prototypes`
    [num_edges, width] are normal, `down` kaiming-uniform with a = sqrt(5), `up` zero.
    """

    def __init__(self, width: int, bottleneck: int, num_edges: int, temperature: float) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(num_edges, width))
        self.down = nn.Parameter(torch.empty(bottleneck, width))
        self.up = nn.Parameter(torch.zeros(width, bottleneck))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(1, -2)
        cosines = F.linear(F.normalize(tokens, dim=-1), F.normalize(self.prototypes, dim=-1))
        shares = (cosines / self.temperature).softmax(dim=-1)
        edges = shares.transpose(1, 2) @ tokens / shares.sum(dim=1).unsqueeze(-1)
        adapted = F.linear(F.gelu(F.linear(edges, self.down)), self.up)
        return (shares @ adapted).view_as(x)


@METHODS.add("hyperadapter")
@dataclass(frozen=True)
class HyperAdapter(Method):
    """x = x + half(x) + A U(A^T n / A^T 1) for both halves, A the shares of tokens n in learned prototypes.

    `num_edges` prototypes and a bottleneck of width h without biases for each half: 2 L D (K + 2 h) parameters on a
    plain ViT, which is the published number on ViT-B, ViT-L and Swin-B. No code is public: that shares are a softmax of
    cosines, GELU, the starts (silent) and that both halves' normed inputs are read are choices of this project.
    """

    family: ClassVar[str] = "adapter"
    paper: ClassVar[str] = "arXiv:2606.22383"
    faithfulness: ClassVar[str] = "details not published"
    size_option: ClassVar[str] = "bottleneck"

    bottleneck: int = option(8, ge=1)
    num_edges: int = option(8, ge=1)
    temperature: float = option(0.1, gt=0)

    def attach(self, backbone: Backbone) -> None:
        if not backbone.shape.at("attn"):
            raise NotApplicable(f"{self.name} stands beside attention; {backbone.shape.family} has no attention")
        for site in backbone.sites("block"):
            taps = [Tap(half, self._edges(site.shape.out_dim)) for half in HALVES]
            site.wrap(partial(tap_block, taps=taps))

    def _edges(self, width: int) -> Hyperedges:
        return Hyperedges(width, self.bottleneck, self.num_edges, self.temperature)

    def expected_params(self, shape: BackboneShape) -> int:
        return sum(site.out_dim * (self.num_edges + 2 * self.bottleneck) for site in shape.at(*HALVES))
