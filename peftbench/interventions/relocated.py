"""Learnable tokens of all blocks in one place, each of which may move from block to block while it trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from peftbench.foundation.errors import BadInput
from peftbench.foundation.written import HostRead
from peftbench.interventions.base import Intervention
from peftbench.interventions.shared import refer
from peftbench.interventions.tokens import prompt_bound, strip_tokens


class Prompts(HostRead):
    """Tokens [blocks * num_tokens, width] from U(-v, v), v the `prompt_bound`, and the block that each enters.

    `place` (int64 [blocks * num_tokens], from 0) is saved with them; at the start every block has `num_tokens`.
    `members` are the tokens that enter each block, int64 [any number] and in the order of the tokens.
    """

    place: Tensor

    def __init__(self, num_blocks: int, num_tokens: int, width: int, patch_size: int) -> None:
        super().__init__()
        bound = prompt_bound(patch_size, width)
        self.tokens = nn.Parameter(torch.empty(num_blocks * num_tokens, width).uniform_(-bound, bound))
        self.register_buffer("place", torch.arange(num_blocks).repeat_interleave(num_tokens))
        self.num_blocks = num_blocks
        self.members: list[Tensor] = []
        self.reread()

    def reread(self) -> None:
        """Find the members of each block by `place`. Raises `BadInput` for places that are none."""
        if self.place.is_meta:
            return
        places = self.place.tolist()
        if not set(places) <= set(range(self.num_blocks)):
            raise BadInput(f"a prompt enters block {max(places, key=abs)}; this network has {self.num_blocks}")
        # also of a model that is loaded for inference and trained later
        with torch.inference_mode(False):
            self.members = [(self.place == block).nonzero()[:, 0] for block in range(self.num_blocks)]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Prompts:
        """To another device the members go along."""
        super()._apply(fn, recurse)
        self.members = [members.to(self.place.device) for members in self.members]
        return self

    @property
    def counts(self) -> list[int]:
        """How many enter each block."""
        return [len(members) for members in self.members]

    def forward(self, block: int) -> Tensor:
        """Those that enter a block, [any number, width]."""
        return self.tokens[self.members[block]]

    @torch.no_grad()
    def move(self, token: int, block: int, factor: float) -> None:
        """Let a token enter another block, multiplied by `factor`."""
        self.place[token] = block
        self.tokens[token] *= factor
        self.reread()


class EnterPrompts(Intervention):
    """A block that the prompts of its number enter, between the prefix and the patches; behind it they are cut off.

    tokens: [batch, prefix + patches, width]. Dropout takes other entries in each image.
    """

    prompts: Prompts

    def __init__(self, base: nn.Module, prompts: Prompts, number: int, num_prefix: int, dropout: float) -> None:
        super().__init__(base)
        refer(self, "prompts", prompts)
        self.dropout = nn.Dropout(dropout)
        self.number, self.num_prefix = number, num_prefix

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        own = self.prompts(self.number)
        if len(own):
            entering = self.dropout(own.expand(x.shape[0], -1, -1)).to(x.dtype)
            x = torch.cat([x[:, : self.num_prefix], entering, x[:, self.num_prefix :]], dim=1)
        x = self.base(x, **arguments)
        return strip_tokens(x, self.num_prefix, len(own)) if len(own) else x
