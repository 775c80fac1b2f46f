"""E3VA (Yin et al., 2023, arXiv:2306.09729): low-rank adapters on a highway of their own beside a frozen backbone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape, unfreeze
from peftbench.interventions import Intervention
from peftbench.interventions.block import halves
from peftbench.methods.base import METHODS
from peftbench.methods.lorand import LoRand


class HighwayBlock(Intervention):
    """A frozen block and its stretch of the highway: e <- e + A(y) for the output y of attention and of the MLP.

    `then` says what goes on: `pair` (stream, e) to a block of the same stage; `batch`, the two stacked as one batch,
    through the merging step to the next stage; `sum` stream + e to the final norm. No gradient enters the block. As a
    map stands stream + e, which is how the highway joins a pyramid.
    """

    def __init__(self, base: nn.Module, adapters: Mapping[str, nn.Module], first: bool, then: str) -> None:
        super().__init__(base)
        self.adapters = nn.ModuleDict({half: adapters[half] for half in halves(base, {})})
        self.first, self.then = first, then

    def forward(self, x: Tensor | tuple[Tensor, Tensor], **arguments: Any) -> Tensor | tuple[Tensor, Tensor]:
        highway: Tensor | float = 0.0
        if isinstance(x, tuple):
            stream, highway = x
        elif self.first:
            stream = x
        else:
            stream, highway = x.chunk(2)
        stream = stream.detach()
        for name, half in halves(self.base, arguments).items():
            y = half.core(half.norm(stream))
            highway = highway + self.adapters[name](y)
            stream = stream + half.drop(half.scale(y))
        assert isinstance(highway, Tensor)
        if self.then == "pair":
            return stream, highway
        return torch.cat([stream, highway]) if self.then == "batch" else stream + highway

    def map_of(self, output: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        if isinstance(output, tuple):
            return output[0] + output[1]
        if self.then == "sum":
            return output
        stream, highway = output.chunk(2)
        return stream + highway


@METHODS.add("e3va")
@dataclass(frozen=True)
class E3VA(LoRand):
    """e_l = e_{l-1} + A_l(attn_l) + A'_l(mlp_l) with `lorand`'s A; the final norm, which trains, sees x_L + e_L.

    attn_l and mlp_l are the outputs of attention and MLP ahead of their residual additions; the backbone never sees e,
    so that backpropagation follows the highway alone. On Swin e passes the frozen merging steps of the backbone, as in
    the paper, whose highway then joins a feature pyramid behind trainable norms. With two branches, rank 8 and
    reduction 2 the adapters have the published sizes of Swin-B (1.20 M) and Swin-L (1.79 M).

    There is no public code. From summaries of the paper: the highway, its inputs, adapters side by side and not in a
    row, inherited merging steps, trainable norms. Chosen here: the plain sum as the form of the highway, the inputs
    ahead of the residual, LoRand's module without its shortcut and with its initialisation for the paper's "dual
    low-rank" one. The count of `lorand` + 2 D on a plain ViT.
    """

    family: ClassVar[str] = "side"
    paper: ClassVar[str] = "arXiv:2306.09729"
    adapted: ClassVar[str] = (
        "Made for detection and segmentation on Swin, where the highway joins a feature pyramid; here it is added to "
        "the last stream under a classifier."
    )

    def attach(self, backbone: Backbone) -> None:
        adapters: defaultdict[int, dict[str, nn.Module]] = defaultdict(dict)
        for site, adapter in self._adapters(backbone):
            adapters[site.layer][site.shape.role] = adapter
        blocks = backbone.sites("block")
        widths = [site.shape.out_dim for site in blocks]
        goes_on = ["pair" if width == following else "batch" for width, following in pairwise(widths)]
        for site, then in zip(blocks, [*goes_on, "sum"], strict=True):
            site.wrap(partial(HighwayBlock, adapters=adapters[site.layer], first=site.layer == 0, then=then))
        unfreeze(*(site.module for site in backbone.sites("norm.final")))

    def expected_params(self, shape: BackboneShape) -> int:
        norms = sum(norm.out_dim * (2 if norm.has_bias else 1) for norm in shape.at("norm.final"))
        return super().expected_params(shape) + norms
