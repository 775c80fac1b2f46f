"""DiffFit (Xie et al., ICCV 2023, arXiv:2304.06648): biases, norms, and a scale on every residual branch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import nn

from peftbench.backbones.base import Backbone, BackboneShape, unfreeze
from peftbench.interventions import LinearScale
from peftbench.methods.base import METHODS
from peftbench.methods.bitfit import BitFit

# The linear map that ends a residual branch.
ENDS = ("attn.proj", "mlp.fc2")
# of the token stream, and of queries and keys
NORMS = ("norm", "qk_norm")


@METHODS.add("difffit")
@dataclass(frozen=True)
class DiffFit(BitFit):
    """x = x + g1 * attn(norm1(x)), x = x + g2 * mlp(norm2(x)) with vectors g = 1 at the start (section 3.2).

    All biases and norms train with them, those of queries and keys included: 11 D L + 2 D + D (2 L + 1) + 2 D L
    parameters on a plain ViT. A scale per channel commutes with LayerScale and stochastic depth, so it sits on the
    output of the branch's last linear map, where it folds into rows and bias. Made for diffusion transformers, whose
    class embedding trains as well; vision transformers have none. Public code for diffusion networks scales queries,
    keys, values and attention's own output too, some of it in the first half of the blocks alone; here are the two
    scales of each block that public code for vision transformers has. A ConvNeXt block has one branch.
    """

    paper: ClassVar[str] = "arXiv:2304.06648"
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "Made for diffusion transformers, whose class embedding trains as well; vision transformers have none."
    )

    def attach(self, backbone: Backbone) -> None:
        super().attach(backbone)
        for site in backbone.all_sites:
            if site.shape.role.startswith(NORMS):
                assert isinstance(site.module.weight, nn.Parameter)
                unfreeze(site.module.weight)
            elif site.shape.role in ENDS:
                site.wrap(partial(LinearScale, width=site.shape.out_dim, channel_dim=site.channel_dim))

    def expected_params(self, shape: BackboneShape) -> int:
        norms = sum(site.out_dim for site in shape.sites if site.role.startswith(NORMS))
        return super().expected_params(shape) + norms + sum(site.out_dim for site in shape.at(*ENDS))
