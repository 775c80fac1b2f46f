"""HyperPrompt (He et al., ICML 2022, arXiv:2203.00759): small networks make every prefix from one prompt."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.spec import option
from peftbench.interventions import AttentionHook, hook_attention, in_front, refer, share
from peftbench.methods.base import METHODS, Method


class GlobalPrompt(nn.Module):
    """The prompt P [num_tokens, width] of all layers, drawn from N(0, 1) like a normed token."""

    def __init__(self, num_tokens: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(num_tokens, width))


class GeneratedKeysValues(AttentionHook):
    """K' = [U_k relu(D_k P); K] and V' = [U_v relu(D_v P); V] with D [bottleneck, width] and U [width, bottleneck].

    All four maps are kaiming-uniform with a = sqrt(5). Keys enter behind a norm on the keys.
    """

    prompt: GlobalPrompt

    def __init__(self, prompt: GlobalPrompt, width: int, num_heads: int, bottleneck: int) -> None:
        super().__init__()
        refer(self, "prompt", prompt)
        self.down_keys, self.up_keys = _map(width, bottleneck), _map(bottleneck, width)
        self.down_values, self.up_values = _map(width, bottleneck), _map(bottleneck, width)
        self.num_heads = num_heads

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        keys = F.linear(F.relu(F.linear(self.prompt.tokens, self.down_keys)), self.up_keys)
        values = F.linear(F.relu(F.linear(self.prompt.tokens, self.down_values)), self.up_values)
        return in_front(keys, k, self.num_heads), in_front(values, v, self.num_heads)


def _map(in_dim: int, out_dim: int) -> nn.Parameter:
    weight = nn.Parameter(torch.empty(out_dim, in_dim))
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
    return weight


@METHODS.add("hyperprompt")
@dataclass(frozen=True)
class HyperPrompt(Method):
    """softmax(q [h_k(P); K]^T / sqrt(d)) [h_v(P); V] with h(P) = U relu(D P): one P, a small h_k and h_v per layer.

    With a single task the paper's Share and Sep forms, which differ in what several tasks share, are one and the same;
    its Global form, which makes each h from embeddings of task and layer, is `hyperprompt_global`. What remains over
    prefix tuning is that all layers read one prompt. Sizes and initialisation are chosen here. Stages of other widths
    (Swin) have a prompt of their own. p D + 4 b D L parameters on a plain ViT.
    """

    family: ClassVar[str] = "prompt"
    paper: ClassVar[str] = "arXiv:2203.00759"
    identity_at_init: ClassVar[bool] = False
    size_option: ClassVar[str] = "num_tokens"
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "Made for several language tasks with T5; here one image task, so nothing tells tasks apart."
    )

    num_tokens: int = option(10, ge=1)
    bottleneck: int = option(8, ge=1)

    def attach(self, backbone: Backbone) -> None:
        sites = list(zip(backbone.sites("attn"), backbone.sites("attn.qkv"), strict=True))
        prompts = {
            width: share(backbone, f"prompt_{width}", GlobalPrompt(self.num_tokens, width))
            for width in dict.fromkeys(qkv.shape.out_dim // 3 for _, qkv in sites)
        }
        for site, qkv in sites:
            width, heads = qkv.shape.out_dim // 3, int(site.module.num_heads)  # type: ignore[arg-type]
            hook = GeneratedKeysValues(prompts[width], width, heads, self.bottleneck)
            site.wrap(partial(hook_attention, hooks=[hook]))

    def expected_params(self, shape: BackboneShape) -> int:
        widths = [site.out_dim // 3 for site in shape.at("attn.qkv")]
        return sum(self.num_tokens * width for width in set(widths)) + sum(4 * self.bottleneck * w for w in widths)
