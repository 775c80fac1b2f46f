"""APLA (Sorkhei et al., arXiv:2503.11335): some rows of attention's output projection."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.spec import option
from peftbench.interventions import Intervention, made_again
from peftbench.methods.base import METHODS, Method


class TrainedRows(Intervention):
    """A frozen linear map some of whose outputs come from rows that train: `rows` [number, in_dim], `biases` [number].

    They start as the frozen rows at `places` and stand for them, so that weight decay pulls to zero as if in place.
    """

    places: Tensor

    def __init__(self, base: nn.Linear, places: Tensor) -> None:
        super().__init__(base)
        made_again(self, "places", places.to(base.weight.device))
        self.rows = nn.Parameter(base.weight.detach()[self.places].clone())
        self.biases = None if base.bias is None else nn.Parameter(base.bias.detach()[self.places].clone())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        return y.index_copy(-1, self.places, F.linear(x, self.rows, self.biases).to(y.dtype))

    def folded(self) -> nn.Module:
        plain = copy.deepcopy(self.base)
        plain.weight[self.places] = self.rows  # type: ignore[operator]
        if self.biases is not None:
            plain.bias[self.places] = self.biases  # type: ignore[operator]
        return plain


@METHODS.add("apla")
@dataclass(frozen=True)
class APLA(Method):
    """`num_rows` random outputs of attention's output projection in every block, with their biases.

    Drawn once for each block from `rows_seed`. L k (D + 1) parameters on a plain ViT; with as many rows as the width
    all of the projection trains, the paper's upper case. Nothing is added, so merging is exact. The released rates are
    those of full fine-tuning, 3e-5 to 1e-4, since pretrained rows move: name `optim.lr`.
    """

    family: ClassVar[str] = "selection"
    paper: ClassVar[str] = "arXiv:2503.11335"
    mergeable: ClassVar[bool] = True
    size_option: ClassVar[str] = "num_rows"

    num_rows: int = option(8, ge=1)
    rows_seed: int = option(0, ge=0)

    def attach(self, backbone: Backbone) -> None:
        generator = torch.Generator().manual_seed(self.rows_seed)
        for site in backbone.sites("attn.proj"):
            places = torch.randperm(site.shape.out_dim, generator=generator, device="cpu")[: self.num_rows]
            site.wrap(lambda linear, places=places: TrainedRows(linear, places))  # type: ignore[misc]

    def expected_params(self, shape: BackboneShape) -> int:
        sites = shape.at("attn.proj")
        return sum(min(self.num_rows, site.out_dim) * (site.in_dim + site.has_bias) for site in sites)
