"""Prefix tuning (Li and Liang, ACL 2021, arXiv:2101.00190) and the MAM adapter (He et al., ICLR 2022, 2110.04366)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.spec import option
from peftbench.interventions import AttentionHook, Bottleneck, ExtraKeysValues, Tap, hook_attention, tap_block
from peftbench.interventions.attention import in_front
from peftbench.interventions.shared import refer, share
from peftbench.methods.base import METHODS, Method


class PrefixSource(nn.Module):
    """tanh(W E + b), E [num_tokens, width] drawn from N(0, 1), W [hidden, width]: shared by all blocks."""

    def __init__(self, num_tokens: int, width: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(num_tokens, width))
        self.linear = nn.Linear(width, hidden)

    def forward(self) -> Tensor:
        return torch.tanh(self.linear(self.embedding))


class ProducedKeysValues(AttentionHook):
    """[P_k, P_v] = V source() + c with V [2 width, hidden] of this block: its rows of the last map of the MLP."""

    source: PrefixSource

    def __init__(self, source: PrefixSource, width: int, num_heads: int) -> None:
        super().__init__()
        refer(self, "source", source)
        self.up = nn.Linear(source.linear.out_features, 2 * width)
        self.num_heads = num_heads

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.up(self.source()).chunk(2, dim=-1)
        return in_front(keys, k, self.num_heads), in_front(values, v, self.num_heads)


@METHODS.add("prefix")
@dataclass(frozen=True)
class Prefix(Method):
    """softmax(q [P_k; K]^T / sqrt(d)) [P_v; V] in every block, P_k and P_v [num_tokens, D] (He et al., equation 5).

    The number of tokens stays, since the prefix asks nothing itself. Each window of a Swin sees the same prefix,
    without relative position. Values are trained directly, drawn from N(0, 0.02) as in He et al.'s code: 2 p D L
    parameters. With `mlp_width` m an MLP makes them, [P_k; P_v of all blocks] = V tanh(W E + b) + c (Li and Liang,
    section 4.3; 800 in He et al.'s code, whose init it has): p D + m (D + 1) + 2 D L (m + 1) parameters train. What it
    makes no longer changes behind training; the record counts, and the adapter file holds, the MLP.
    """

    family: ClassVar[str] = "prompt"
    paper: ClassVar[str] = "arXiv:2101.00190"
    identity_at_init: ClassVar[bool] = False
    size_option: ClassVar[str] = "num_tokens"
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "Made for language models; the prefix is trained directly unless `mlp_width` asks for the paper's MLP."
    )

    num_tokens: int = option(10, ge=1)
    mlp_width: int | None = option(None, ge=1, later=True)

    def attach(self, backbone: Backbone) -> None:
        sites = zip(backbone.sites("attn"), backbone.sites("attn.qkv"), strict=True)
        source = None
        if self.mlp_width:
            source = share(backbone, "prefix", PrefixSource(self.num_tokens, backbone.shape.width, self.mlp_width))
        for site, qkv in sites:
            heads: int = site.module.num_heads  # type: ignore[assignment]
            width = qkv.shape.out_dim // 3
            prefix: AttentionHook = (
                ProducedKeysValues(source, width, heads) if source else ExtraKeysValues(self.num_tokens, width, heads)
            )
            site.wrap(partial(hook_attention, hooks=[prefix]))

    def expected_params(self, shape: BackboneShape) -> int:
        widths = sum(site.out_dim // 3 for site in shape.at("attn.qkv"))
        if self.mlp_width is None:
            return 2 * self.num_tokens * widths
        source = self.num_tokens * shape.width + (shape.width + 1) * self.mlp_width
        return source + 2 * widths * (self.mlp_width + 1)


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
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "Made for BART with its post-norm; here a pre-norm block, a directly trained prefix and sizes for VTAB-1k."
    )

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
