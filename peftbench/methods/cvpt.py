"""CVPT (Huang et al., ICCV 2025, arXiv:2408.14961): prompts seen by the stream through the block's attention."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.spec import option
from peftbench.interventions import Tap, look_at, refer, require_plain, tap_block
from peftbench.methods.base import METHODS, Method

# place -> the half of a block whose stream is read
PLACES = {"after_attn": "attn", "after_mlp": "mlp"}


class CrossAttention(nn.Module):
    """x -> x + CA(x, P): queries from the stream, keys and values from prompts P [num_tokens, width], both as they are.

    All maps are those of the block's frozen attention. Dropout takes other entries of the prompts in each image.
    """

    attn: nn.Module

    def __init__(self, attn: nn.Module, prompts: Tensor, dropout: float) -> None:
        super().__init__()
        refer(self, "attn", attn)
        self.prompts = nn.Parameter(prompts)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        prompts = self.dropout(self.prompts.expand(x.shape[0], -1, -1)).to(x.dtype)
        return x + look_at(self.attn, x, prompts)


@METHODS.add("cvpt")
@dataclass(frozen=True)
class CVPT(Method):
    """x = x + CA(x, P_l) on the stream, CA cross-attention with the frozen weights of the block's own attention.

    Behind attention's half of each block (`place: after_attn`, position 3 of the paper) or behind the block. Neither
    the stream nor the prompts are normed. P is drawn xavier-uniform as one tensor [L, p, D], or starts at `zero`; the
    function changes either way. p D L parameters. Under rotary embeddings the prompts have no place on the grid, and
    the queries that look at them do not turn. The release drops a tenth of the prompts' entries (`hparams=paper`).
    """

    family: ClassVar[str] = "prompt"
    paper: ClassVar[str] = "arXiv:2408.14961"
    identity_at_init: ClassVar[bool] = False
    size_option: ClassVar[str] = "num_tokens"

    num_tokens: int = option(10, ge=1)
    dropout: float = option(0.0, ge=0, lt=1)
    place: str = option("after_attn", choices=tuple(PLACES))
    init: str = option("xavier", choices=("xavier", "zero"), later=True)

    def attach(self, backbone: Backbone) -> None:
        blocks, attentions = backbone.sites("block"), backbone.sites("attn")
        shape = backbone.shape
        # xavier of [layers, tokens, width]: the fans are tokens and layers, each times the width
        bound = math.sqrt(6 / ((self.num_tokens + len(blocks)) * shape.width)) if self.init == "xavier" else 0.0
        for block, attention in zip(blocks, attentions, strict=True):
            require_plain(attention.module)
            prompts = torch.empty(self.num_tokens, shape.width).uniform_(-bound, bound)
            module = CrossAttention(attention.module, prompts, self.dropout)
            block.wrap(partial(tap_block, taps=[Tap(PLACES[self.place], module, place="stream")]))

    def expected_params(self, shape: BackboneShape) -> int:
        return shape.depth * self.num_tokens * shape.width
