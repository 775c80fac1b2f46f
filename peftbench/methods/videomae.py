"""AdaptFormer and its VPT baseline as they are on VideoMAE (Chen et al., NeurIPS 2022, arXiv:2205.13535).

Beside the method itself both train the final norm, which VideoMAE's checkpoint lacks, and put a batch norm without
parameters (eps 1e-6) between the features and the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape, unfreeze
from peftbench.foundation.spec import option
from peftbench.foundation.two_images import require_two_images
from peftbench.interventions import Intervention
from peftbench.interventions.side import init_linears
from peftbench.methods.adaptformer import AdaptFormer
from peftbench.methods.base import METHODS
from peftbench.methods.vpt import VPTDeep, token_sequence


class BatchNormed(Intervention):
    """tokens -> batch_norm(base(tokens)), features [batch, width]; the norm has statistics and no parameters."""

    def __init__(self, base: nn.Module, width: int) -> None:
        super().__init__(base)
        self.norm = nn.BatchNorm1d(width, affine=False, eps=1e-6)

    def forward(self, tokens: Tensor) -> Tensor:
        require_two_images(self, tokens.shape[0], "the head's batch norm keeps statistics")
        # said again, for graphs in which its width was lost
        y: Tensor = self.norm(self.base(tokens).unflatten(-1, (self.norm.num_features,)))
        return y


def _finish(backbone: Backbone) -> None:
    unfreeze(*(site.module for site in backbone.sites("norm.final")))
    backbone.readout = BatchNormed(backbone.readout, backbone.feature_dim)


def _norm_params(shape: BackboneShape) -> int:
    return sum(site.num_parameters for site in shape.at("norm.final"))


@METHODS.add("adaptformer_video")
@dataclass(frozen=True)
class AdaptFormerVideo(AdaptFormer):
    """x = x + mlp_half(x) + 0.1 up(relu(down(x))) of width 64 and without dropout; final norm and batch norm on top.

    Both maps start from a truncated normal of std 0.02 and are not silent: in the released network of clips, unlike
    that of images, the transformer's own start comes behind the adapters'. L (2 D h + h + D) + 2 D parameters.
    """

    version: ClassVar[int] = 2
    identity_at_init: ClassVar[bool] = False
    pools_itself: ClassVar[bool] = True

    bottleneck: int = option(64, ge=1)
    dropout: float = option(0.0, ge=0, lt=1)

    def attach(self, backbone: Backbone) -> None:
        super().attach(backbone)
        for site in backbone.sites("block"):
            for branch in site.module.taps:  # type: ignore[union-attr]
                init_linears(branch)
        _finish(backbone)

    def expected_params(self, shape: BackboneShape) -> int:
        return super().expected_params(shape) + _norm_params(shape)


@METHODS.add("vpt_video")
@dataclass(frozen=True)
class VPTVideo(VPTDeep):
    """Every block gets its own tokens ahead of the patches, xavier-uniform and without dropout; two norms on top.

    L p D + 2 D parameters.
    """

    pools_itself: ClassVar[bool] = True

    num_tokens: int = option(1, ge=1)
    dropout: float = option(0.0, ge=0, lt=1)

    def attach(self, backbone: Backbone) -> None:
        sites = token_sequence(self.name, backbone)
        super().attach(backbone)
        for site in sites:
            nn.init.xavier_uniform_(site.module.tokens)  # type: ignore[arg-type]
        _finish(backbone)

    def expected_params(self, shape: BackboneShape) -> int:
        return super().expected_params(shape) + _norm_params(shape)
