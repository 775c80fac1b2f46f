"""SSF (Lian et al., NeurIPS 2022, arXiv:2210.08823): scale and shift the output of every operation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.spec import option
from peftbench.interventions import ScaleShift
from peftbench.methods.base import METHODS, Method
from peftbench.methods.inert import key_third

OPERATIONS = ("embed", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "merge", "conv", "norm")


@METHODS.add("ssf")
@dataclass(frozen=True)
class SSF(Method):
    """y = gamma * y + beta after patch embedding, every norm, qkv, proj, fc1 (before GELU) and fc2 (equation 5).

    2 (2 D + 11 D L) parameters on a plain ViT. Drawn around the identity, so the function changes slightly at the
    start. Folds exactly into the weights (equation 6).
    """

    family: ClassVar[str] = "reparametrisation"
    paper: ClassVar[str] = "arXiv:2210.08823"
    identity_at_init: ClassVar[bool] = False
    mergeable: ClassVar[bool] = True

    init_std: float = option(0.02, ge=0)

    def attach(self, backbone: Backbone) -> None:
        for site in backbone.all_sites:
            if site.shape.role.startswith(OPERATIONS):
                width = site.shape.out_dim
                site.wrap(partial(ScaleShift, width=width, channel_dim=site.channel_dim, std=self.init_std))

    def expected_params(self, shape: BackboneShape) -> int:
        return sum(2 * site.out_dim for site in shape.sites if site.role.startswith(OPERATIONS))

    def inert(self, backbone: Backbone) -> dict[str, slice]:
        """The key part of a qkv shift: softmax cancels an offset common to all scores of a query."""
        return key_third(backbone, "shift")
