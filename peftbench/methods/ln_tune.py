"""Norm tuning (Basu et al., "Strong Baselines", AAAI 2024, arXiv:2304.01917): only the affine norm parameters train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from peftbench.backbones.base import Backbone, BackboneShape, unfreeze
from peftbench.methods.base import METHODS, Method


@METHODS.add("ln_tune")
@dataclass(frozen=True)
class LNTune(Method):
    """Weight and bias of every norm on the token stream: 2 D (2 L + 1) on a plain ViT.

    That is both norms of each block, the final one, and where they exist those behind the patch embedding, before the
    blocks and before a merging step. Norms of queries and keys act inside attention and stay frozen.
    """

    family: ClassVar[str] = "selection"
    paper: ClassVar[str] = "arXiv:2304.01917"
    mergeable: ClassVar[bool] = True

    def attach(self, backbone: Backbone) -> None:
        unfreeze(*(site.module for site in backbone.sites("norm")))

    def expected_params(self, shape: BackboneShape) -> int:
        return sum(norm.out_dim * (2 if norm.has_bias else 1) for norm in shape.at("norm"))
