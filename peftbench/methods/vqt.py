"""Visual query tuning (Tu et al., CVPR 2023, arXiv:2212.03220): learnable queries summarise every block."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import CarriedReadout, QueryTokens, SparesCarried
from peftbench.methods.base import METHODS, Method


@METHODS.add("vqt")
@dataclass(frozen=True)
class VQT(Method):
    """Z'_l = Block_l(P_l asks [Z_l]), P_l [num_tokens, D]; features [z; Z'_1; ...; Z'_L] (section 3.2).

    The tokens P_l are queries only, so the block's own tokens, and with them the pooled feature z, are those of the
    frozen network. What they bring back passes the block's projection and MLP and goes to the head, not to the next
    block. z and each block's flattened Z'_l are scaled to length 1, as in the released code. No gradient runs through
    the token path. L p D parameters, and a head on (1 + p L) D features, which dominates.

    Tokens are drawn like VPT's, and dropped: other entries in each image. The optional selection
    of head features after training is left out.
    """

    family: ClassVar[str] = "prompt"
    paper: ClassVar[str] = "arXiv:2212.03220"
    identity_at_init: ClassVar[bool] = False
    version: ClassVar[int] = 2
    size_option: ClassVar[str] = "num_tokens"

    num_tokens: int = option(1, ge=1)
    dropout: float = option(0.1, ge=0, lt=1)

    def attach(self, backbone: Backbone) -> None:
        shape, p = backbone.shape, self.num_tokens
        if shape.family != "vit":
            raise NotApplicable(
                f"{self.name} asks one token sequence in all blocks; {shape.family} has windows or maps"
            )
        for site in backbone.sites("block"):
            site.wrap(
                partial(
                    QueryTokens,
                    num_tokens=p,
                    width=shape.width,
                    patch_size=shape.patch_size,
                    last=site.layer == shape.depth - 1,
                    dropout=self.dropout,
                )
            )
        for site in backbone.all_sites:
            if site.shape.role == "norm.final":
                site.wrap(partial(SparesCarried, num_carried=shape.depth * p))
        backbone.readout = CarriedReadout(backbone.readout, shape.depth, p)
        backbone.feature_dim = (1 + shape.depth * p) * shape.width

    def expected_params(self, shape: BackboneShape) -> int:
        return shape.depth * self.num_tokens * shape.width
