"""Prefix tuning (Li and Liang, ACL 2021, arXiv:2101.00190) and the MAM adapter (He et al., ICLR 2022, 2110.04366)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.interventions import Bottleneck, ExtraKeysValues, Tap, hook_attention, tap_block
from peftbench.methods.base import METHODS, Method
from peftbench.spec import option


@METHODS.add("prefix")
@dataclass(frozen=True)
class Prefix(Method):
    """softmax(q [P_k; K]^T / sqrt(d)) [P_v; V] in every block, P_k and P_v [num_tokens, D] (He et al., equation 5).

    The number of tokens stays, since the prefix asks nothing itself. Each window of a Swin sees the same prefix,
    without relative position. Values are trained directly, drawn from N(0, 0.02) as in He et al.'s code; the
    re-parameterisation by an MLP during training (Li and Liang, section 4.3) is left out. 2 p D L parameters.
    """

    family: ClassVar[str] = "prompt"
    paper: ClassVar[str] = "arXiv:2101.00190"
    identity_at_init: ClassVar[bool] = False
    size_option: ClassVar[str] = "num_tokens"

    num_tokens: int = option(10, ge=1)

    def attach(self, backbone: Backbone) -> None:
        for site, qkv in zip(backbone.sites("attn"), backbone.sites("attn.qkv"), strict=True):
            heads: int = site.module.num_heads  # type: ignore[assignment]
            prefix = ExtraKeysValues(self.num_tokens, qkv.shape.out_dim // 3, heads)
            site.wrap(partial(hook_attention, hooks=[prefix]))

    def expected_params(self, shape: BackboneShape) -> int:
        return sum(2 * self.num_tokens * (site.out_dim // 3) for site in shape.at("attn.qkv"))


@METHODS.add("mam")
@dataclass(frozen=True)
class MAM(Prefix):
    """A short prefix in attention and x = x + mlp(n) + scale * up(relu(down(n))) with n the MLP's normed input.

    The mix-and-match adapter of section 4.6: prefix tuning where little is spent, a scaled parallel adapter where more
    is. scale 4 is the paper's; num_tokens and bottleneck are sized for VTAB-1k (the paper: 30 and 512 at width 1024).
    """

    family: ClassVar[str] = "adapter"
    paper: ClassVar[str] = "arXiv:2110.04366"
    size_option: ClassVar[str] = "bottleneck"

    bottleneck: int = option(8, ge=1)
    scale: float = option(4.0, gt=0)
    dropout: float = option(0.1, ge=0, lt=1)

    def attach(self, backbone: Backbone) -> None:
        super().attach(backbone)
        for site in backbone.sites("block"):
            branch = Bottleneck(site.shape.out_dim, self.bottleneck, "relu", self.dropout, self.scale)
            site.wrap(partial(tap_block, taps=[Tap("mlp", branch)]))

    def expected_params(self, shape: BackboneShape) -> int:
        h = self.bottleneck
        return super().expected_params(shape) + sum(2 * s.out_dim * h + h + s.out_dim for s in shape.at("block"))
