"""U-Tuning (Jiang et al., 2023, arXiv:2303.00690): a tuner beside any frozen operation, attention, MLP or block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.spec import option
from peftbench.interventions import Beside, Bottleneck, OwnKeysValues, Tap, hook_attention, tap_block
from peftbench.methods.base import METHODS, Method


@METHODS.add("u_tuning")
@dataclass(frozen=True)
class UTuning(Method):
    """OP'(x) = OP(x) + U(x) with OP frozen: attention or the MLP of a block, reading the normed stream, or the block.

    Adapter: U(x) = W_u gelu(W_d x + a) + b, W_d [bottleneck, D]. Prefix, for attention: U(x) = W_o softmax(W_q x P_k^T
    / sqrt(d)) P_v with the frozen W_q and W_o, the parallel form of a prefix P_k, P_v [num_tokens, D]: its softmax is
    its own, where prefix tuning shares one with the sequence. Init as in the authors' toolkit: xavier-uniform; biases
    are zero, where it draws them with std 1e-6.

    The paper derives the frame and combines tuners freely. Prefix beside attention with an adapter beside the MLP is
    the default here; which combination gave its published numbers, and the sizes, are not known from what was read.
    The authors' released backbone has the forms that the frame unifies, a prefix among the sequence's keys and an
    adapter behind the MLP, and no parallel one.
    2 p D L + L (2 D h + h + D) parameters on a plain ViT.
    """

    family: ClassVar[str] = "adapter"
    paper: ClassVar[str] = "arXiv:2303.00690"
    faithfulness: ClassVar[str] = "details not published"
    size_option: ClassVar[str] = "bottleneck"
    identity_at_init: ClassVar[bool] = False

    attention: str = option("prefix", choices=("prefix", "adapter", "none"))
    mlp: str = option("adapter", choices=("adapter", "none"))
    block: str = option("none", choices=("adapter", "none"))
    num_tokens: int = option(10, ge=1)
    bottleneck: int = option(8, ge=1)

    def problems(self) -> Sequence[str]:
        if self.attention == self.mlp == self.block == "none":
            return ["one of method.attention, method.mlp and method.block must have a tuner"]
        return ()

    def attach(self, backbone: Backbone) -> None:
        if self.attention == "prefix":
            for site, qkv in zip(backbone.sites("attn"), backbone.sites("attn.qkv"), strict=True):
                heads: int = site.module.num_heads  # type: ignore[assignment]
                prefix = OwnKeysValues(self.num_tokens, qkv.shape.out_dim // 3, heads)
                site.wrap(partial(hook_attention, hooks=[prefix]))
        for site in backbone.sites("block"):
            width = site.shape.out_dim
            taps = [Tap(half, self._adapter(width), "inside") for half in self._halves]
            if taps:
                site.wrap(partial(tap_block, taps=taps))
            if self.block == "adapter":
                site.wrap(partial(Beside, module=self._adapter(width), channel_dim=site.channel_dim))

    @property
    def _halves(self) -> list[str]:
        """The halves of a block with an adapter beside them."""
        return [half for half, tuner in (("attn", self.attention), ("mlp", self.mlp)) if tuner == "adapter"]

    def _adapter(self, width: int) -> Bottleneck:
        return Bottleneck(width, self.bottleneck, "gelu", init="xavier")

    def expected_params(self, shape: BackboneShape) -> int:
        h, num_adapters = self.bottleneck, len(self._halves) + (self.block == "adapter")
        prefixes = shape.at("attn.qkv") if self.attention == "prefix" else []
        adapters = num_adapters * sum(2 * site.out_dim * h + h + site.out_dim for site in shape.at("block"))
        return adapters + sum(2 * self.num_tokens * (site.out_dim // 3) for site in prefixes)
