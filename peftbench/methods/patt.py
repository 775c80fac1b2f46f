"""Parallel attention, PATT and BAPAT (Yu et al., 2022, arXiv:2210.00788): keys and values from a side projection."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.spec import option
from peftbench.interventions import AttentionHook, Bottleneck, Tap, hook_attention, split_heads, tap_block
from peftbench.interventions.side import init_linears
from peftbench.methods.base import METHODS, Method
from peftbench.methods.inert import norms_keys


class ParallelKeysValues(AttentionHook):
    """K' = K + scale K~, V' = V + scale V~ with [K~, V~] = W_u tanh(W_d x + b) + c, x [batch, length, width]."""

    def __init__(
        self, in_dim: int, width: int, num_heads: int, bottleneck: int, scale: float, init: str, zero_up: bool
    ) -> None:
        super().__init__()
        self.down = nn.Linear(in_dim, bottleneck)
        self.up = nn.Linear(bottleneck, 2 * width)
        self.num_heads, self.scale = num_heads, scale
        if init == "trunc_normal":
            init_linears(self)
        if zero_up:
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)

    def project(self, x: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        added = self.scale * self.up(torch.tanh(self.down(x)))
        more_k, more_v = split_heads(added, self.num_heads, 2)
        return k + more_k.to(k.dtype), v + more_v.to(v.dtype)


@METHODS.add("patt")
@dataclass(frozen=True)
class PATT(Method):
    """Attention with K + s K~ and V + s V~, where [K~, V~] = W_u tanh(W_d n + b) + c reads the normed input n.

    W_d [m, D] and W_u [2 D, m] per block: prefix tuning whose prefix depends on the token and adds no tokens. Weights
    and biases start as linear layers do, since the released runs never call the code's own `init_weights`; that one,
    `init` trunc_normal, has std 0.02 and biases of zero (`zero_up` starts silent). On a
    backbone with a norm on the keys, K~ is added ahead of it. The paper's video runs use m = 128, s = 0.8; the
    defaults are sized for VTAB-1k. L (3 D m + m + 2 D) parameters.
    """

    family: ClassVar[str] = "prompt"
    paper: ClassVar[str] = "arXiv:2210.00788"
    identity_at_init: ClassVar[bool] = False
    version: ClassVar[int] = 2
    size_option: ClassVar[str] = "bottleneck"
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = "Made for video Swin; here attention over the tokens of one image, with sizes for VTAB-1k."

    bottleneck: int = option(8, ge=1)
    scale: float = option(0.1, gt=0)
    init: str = option("linear", choices=("linear", "trunc_normal"))
    zero_up: bool = option(False)

    def attach(self, backbone: Backbone) -> None:
        for site, qkv in zip(backbone.sites("attn"), backbone.sites("attn.qkv"), strict=True):
            heads: int = site.module.num_heads  # type: ignore[assignment]
            inside, width = qkv.shape.in_dim, qkv.shape.out_dim // 3
            hook = ParallelKeysValues(inside, width, heads, self.bottleneck, self.scale, self.init, self.zero_up)
            site.wrap(partial(hook_attention, hooks=[hook]))

    def expected_params(self, shape: BackboneShape) -> int:
        m = self.bottleneck
        return sum(m * s.in_dim + m + m * 2 * (s.out_dim // 3) + 2 * (s.out_dim // 3) for s in shape.at("attn.qkv"))

    def inert(self, backbone: Backbone) -> dict[str, slice]:
        """The key half of c: it shifts all scores of a query equally, which softmax cancels, unless keys turn."""
        if backbone.turns_keys:
            return {}
        names = {id(parameter): name for name, parameter in backbone.named_parameters()}
        found = {}
        for core in (site.module for site in backbone.sites("attn")):
            for hook in core.hooks if not norms_keys(core.base) else []:  # type: ignore[union-attr]
                found[names[id(hook.up.bias)]] = slice(0, hook.up.out_features // 2)
        return found


@METHODS.add("bapat")
@dataclass(frozen=True)
class BAPAT(PATT):
    """PATT in attention and x = x + mlp_half(x) + s' up(relu(down(x))) on the stream after it, as in AdaptFormer.

    In the released code for Video Swin the branch is part of the MLP (`reads` normed): it reads behind the norm, and
    stochastic depth drops both.
    """

    family: ClassVar[str] = "adapter"

    adapter_bottleneck: int = option(8, ge=1)
    adapter_scale: float = option(0.1, gt=0)
    dropout: float = option(0.1, ge=0, lt=1)
    reads: str = option("raw", choices=("raw", "normed"), later=True)

    def attach(self, backbone: Backbone) -> None:
        super().attach(backbone)
        place = "beside" if self.reads == "raw" else "inside"
        for site in backbone.sites("block"):
            branch = Bottleneck(site.shape.out_dim, self.adapter_bottleneck, "relu", self.dropout, self.adapter_scale)
            site.wrap(partial(tap_block, taps=[Tap("mlp", branch, place, self.reads)]))

    def expected_params(self, shape: BackboneShape) -> int:
        h = self.adapter_bottleneck
        return super().expected_params(shape) + sum(2 * s.out_dim * h + h + s.out_dim for s in shape.at("block"))
