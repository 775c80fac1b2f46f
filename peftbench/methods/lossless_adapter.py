"""Lossless adaptation (Sharma et al., ICLR 2023, arXiv:2304.06600): adapters at the bottom, middle and top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.spec import option
from peftbench.interventions import Behind, Bottleneck
from peftbench.methods.base import METHODS, Method

PLACES = {"bottom": ("embed",), "middle": ("attn", "mlp"), "top": ("norm.final",)}


@METHODS.add("lossless_adapter")
@dataclass(frozen=True)
class LosslessAdapter(Method):
    """y <- y + up(relu(down(y))) behind the patch embedding (bottom), attention and MLP of every block (middle) and the
    final norm (top).

    `places` names the sections of the network that get adapters, alone or together, as in the paper's comparison. They
    start silent. Kind of adapter, width and activation are chosen here: the paper fits them to each network and robot.
    (2 L + 2) (2 D h + h + D) parameters on a plain ViT with all three.
    """

    family: ClassVar[str] = "adapter"
    paper: ClassVar[str] = "arXiv:2304.06600"
    size_option: ClassVar[str] = "bottleneck"
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "Made for robot policies; here plain bottlenecks at the same three places of an image classifier."
    )

    places: list[str] = option(list(PLACES), choices=tuple(PLACES))
    bottleneck: int = option(8, ge=1)
    dropout: float = option(0.1, ge=0, lt=1)
    scale: float = option(1.0, gt=0)

    def problems(self) -> Sequence[str]:
        if not self.places or len(set(self.places)) < len(self.places):
            return [f"method.places must name each place once and at least one, got {self.places}"]
        return ()

    @property
    def roles(self) -> list[str]:
        return [role for place in self.places for role in PLACES[place]]

    def attach(self, backbone: Backbone) -> None:
        for site in backbone.all_sites:
            if site.shape.role in self.roles:
                adapter = Bottleneck(site.shape.out_dim, self.bottleneck, "relu", self.dropout, self.scale)
                site.wrap(partial(Behind, module=adapter, channel_dim=site.channel_dim))

    def expected_params(self, shape: BackboneShape) -> int:
        h = self.bottleneck
        return sum(2 * site.out_dim * h + h + site.out_dim for site in shape.at(*self.roles))
