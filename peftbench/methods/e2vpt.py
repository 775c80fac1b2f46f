"""E2VPT (Han et al., ICCV 2023, arXiv:2307.13770): prompts in the sequence, and prompts among keys and values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.spec import option
from peftbench.interventions import AttentionHook, InsertTokens, hook_attention
from peftbench.methods.base import METHODS, Method
from peftbench.methods.vpt import token_sequence


class KeyValuePrompts(AttentionHook):
    """K' = [P; K], V' = [P; V] with one P [heads, num_tokens, head_dim] for both, behind the projections.

    Kaiming-uniform as a tensor of three axes. Dropout takes other entries in each image, for keys and for values.
    """

    def __init__(self, num_heads: int, num_tokens: int, head_dim: int, dropout: float) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.empty(num_heads, num_tokens, head_dim))
        bound = math.sqrt(6 / (num_tokens * head_dim))
        nn.init.uniform_(self.tokens, -bound, bound)
        self.dropout = nn.Dropout(dropout)

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = (self.dropout(self.tokens.expand(k.shape[0], -1, -1, -1)).to(k.dtype) for _ in range(2))
        return torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2)


@METHODS.add("e2vpt")
@dataclass(frozen=True)
class E2VPT(Method):
    """VPT-deep, and t prompts ahead of the keys and of the values of every block, the same for both.

    L (p D + t D) parameters. The published numbers come from a second training, from the same start, with the prompts
    and the sixteenths of prompts masked that the first finds unimportant; shares of 10 to 90 % are tried on val200.
    """

    family: ClassVar[str] = "prompt"
    paper: ClassVar[str] = "arXiv:2307.13770"
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = "Prompts are not pruned, and so not trained a second time."
    identity_at_init: ClassVar[bool] = False
    size_option: ClassVar[str] = "num_tokens"

    num_tokens: int = option(10, ge=1)
    num_key_values: int = option(5, ge=1)
    dropout: float = option(0.1, ge=0, lt=1)
    key_value_dropout: float = option(0.0, ge=0, lt=1)

    def attach(self, backbone: Backbone) -> None:
        shape = backbone.shape
        blocks = token_sequence(self.name, backbone)
        for site in backbone.sites("attn"):
            head_dim = shape.width // shape.num_heads
            hook = KeyValuePrompts(shape.num_heads, self.num_key_values, head_dim, self.key_value_dropout)
            site.wrap(partial(hook_attention, hooks=[hook]))
        for site in blocks:
            site.wrap(
                lambda block: InsertTokens(
                    block,
                    self.num_tokens,
                    shape.width,
                    shape.patch_size,
                    shape.num_prefix_tokens,
                    self.dropout,
                    strip=True,
                )
            )

    def expected_params(self, shape: BackboneShape) -> int:
        return shape.depth * (self.num_tokens + self.num_key_values) * shape.width
