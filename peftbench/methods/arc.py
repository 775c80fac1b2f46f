"""ARC (Dong et al., NeurIPS 2023, arXiv:2310.06234): linear adapters of all layers from one projection."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.spec import option
from peftbench.interventions import Ahead, refer, share
from peftbench.methods.base import METHODS, Method

# place -> the linear map that reads what the place's norm gives
PLACES = {"attn": "attn.qkv", "mlp": "mlp.fc1"}


class Projection(nn.Module):
    """The matrix `down` [width, bottleneck] that all layers share, xavier-uniform; its transpose projects back."""

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(width, bottleneck))
        nn.init.xavier_uniform_(self.down)


class RescaledProjection(nn.Module):
    """x -> dropout(x (P * c)) P^T + b; `rescale` c [bottleneck] and `bias` b [width] belong to the layer.

    c starts at zero, or xavier-uniform as a matrix of one row where `drawn`; b starts at zero.
    """

    shared: Projection

    def __init__(self, shared: Projection, dropout: float, drawn: bool) -> None:
        super().__init__()
        refer(self, "shared", shared)
        width, bottleneck = shared.down.shape
        rescale = torch.zeros(1, bottleneck)
        if drawn:
            nn.init.xavier_uniform_(rescale)
        self.rescale = nn.Parameter(rescale.flatten())
        self.bias = nn.Parameter(torch.zeros(width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(x @ (self.shared.down * self.rescale))
        return F.linear(hidden, self.shared.down, self.bias)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Matrix [width, width] and offset [width] of the map without dropout."""
        return self.shared.down @ (self.shared.down * self.rescale).T, self.bias


@METHODS.add("arc")
@dataclass(frozen=True)
class ARC(Method):
    """z + drop(z (P * c)) P^T + b behind both norms, P shared by all layers of one width.

    One P for attention and one for the MLP, c and b in each layer: 2 (D h + L (h + D)) parameters on a plain ViT. c
    starts at zero ahead of attention and, as released, drawn ahead of the MLP, so that the function changes. Linear:
    acts on the inputs of qkv and fc1 and folds into them. ConvNeXt has the MLP's half only.
    """

    family: ClassVar[str] = "adapter"
    paper: ClassVar[str] = "arXiv:2310.06234"
    identity_at_init: ClassVar[bool] = False
    mergeable: ClassVar[bool] = True
    size_option: ClassVar[str] = "bottleneck"

    bottleneck: int = option(50, ge=1)
    dropout: float = option(0.1, ge=0, lt=1)
    places: list[str] = option(["attn", "mlp"], choices=tuple(PLACES))

    def problems(self) -> list[str]:
        if not self.places or len(set(self.places)) < len(self.places):
            return [f"method.places must name each place once and at least one, got {self.places}"]
        return []

    def attach(self, backbone: Backbone) -> None:
        for place in self._found(backbone):
            sites, shared = backbone.sites(PLACES[place]), {}
            for site in sites:
                width = site.shape.in_dim
                if width not in shared:
                    shared[width] = share(backbone, f"{place}_{width}", Projection(width, self.bottleneck))
                adapter = RescaledProjection(shared[width], self.dropout, drawn=place == "mlp")
                site.wrap(partial(Ahead, module=adapter, channel_dim=site.channel_dim))

    def _found(self, backbone: Backbone) -> list[str]:
        """The places that the backbone has. Raises `NotApplicable` where it has none of them."""
        roles = {site.shape.role for site in backbone.all_sites}
        found = [place for place in self.places if PLACES[place] in roles]
        if not found:
            backbone.sites(PLACES[self.places[0]])
        return found

    def expected_params(self, shape: BackboneShape) -> int:
        h, total = self.bottleneck, 0
        for place in self.places:
            widths = [site.in_dim for site in shape.at(PLACES[place])]
            total += sum(h * width for width in set(widths)) + sum(h + width for width in widths)
        return total
