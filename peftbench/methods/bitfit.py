"""BitFit (Ben Zaken et al., ACL 2022, arXiv:2106.10199): only the biases train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from peftbench.backbones.base import Backbone, BackboneShape, unfreeze
from peftbench.methods.base import METHODS, Method
from peftbench.methods.inert import key_third

LAYERS = ("embed", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "merge", "conv", "norm", "qk_norm")


@METHODS.add("bitfit")
@dataclass(frozen=True)
class BitFit(Method):
    """All biases: patch embedding, qkv, proj, fc1, fc2 and every norm, those of queries and keys included.

    11 D L + 2 D on a plain ViT.
    """

    family: ClassVar[str] = "selection"
    paper: ClassVar[str] = "arXiv:2106.10199"
    mergeable: ClassVar[bool] = True

    def attach(self, backbone: Backbone) -> None:
        for site in backbone.all_sites:
            if site.shape.has_bias and site.shape.role.startswith(LAYERS):
                bias = site.module.bias
                assert isinstance(bias, nn.Parameter)
                unfreeze(bias)

    def expected_params(self, shape: BackboneShape) -> int:
        return sum(site.out_dim for site in shape.sites if site.has_bias and site.role.startswith(LAYERS))

    def inert(self, backbone: Backbone) -> dict[str, slice]:
        """What shifts all keys, and so all scores of a query, equally, which softmax cancels.

        That is the key third of a qkv bias or, where there is a norm on the keys, the bias of that.
        """
        return key_third(backbone, "bias")
