"""AdaptFormer (Chen et al., NeurIPS 2022, arXiv:2205.13535): a bottleneck parallel to the MLP."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.spec import option
from peftbench.interventions import Bottleneck, Tap, tap_block
from peftbench.methods.base import METHODS, Method


@METHODS.add("adaptformer")
@dataclass(frozen=True)
class AdaptFormer(Method):
    """x = x + mlp_half(x) + scale * up(relu(down(z))) (section 3.2, equations 3 and 4).

    z is the stream after attention as in the released code (`reads: raw`); the paper's text normalises it
    (`reads: normed`). The branch stays outside LayerScale and stochastic depth, as in the code. Width 8 is the
    VTAB-1k convention; the paper's image runs use 64.
    """

    family: ClassVar[str] = "adapter"
    paper: ClassVar[str] = "arXiv:2205.13535"
    size_option: ClassVar[str] = "bottleneck"

    bottleneck: int = option(8, ge=1)
    scale: float = option(0.1, gt=0)
    dropout: float = option(0.1, ge=0, lt=1)
    reads: str = option("raw", choices=("raw", "normed"))

    def attach(self, backbone: Backbone) -> None:
        for site in backbone.sites("block"):
            branch = Bottleneck(site.shape.out_dim, self.bottleneck, "relu", self.dropout, self.scale)
            tap = Tap("mlp", branch, reads=self.reads)
            site.wrap(partial(tap_block, taps=[tap]))

    def expected_params(self, shape: BackboneShape) -> int:
        h = self.bottleneck
        return sum(2 * site.out_dim * h + h + site.out_dim for site in shape.at("block"))
