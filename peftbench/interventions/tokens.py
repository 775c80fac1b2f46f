"""Learnable tokens in the sequence of a plain transformer."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.interventions.attention import Heads, ask, attend_self, heads_of, require_plain
from peftbench.interventions.base import Intervention
from peftbench.interventions.block import halves


def prompt_bound(patch_size: int, width: int) -> float:
    """The xavier bound of a patch projection, by which random prompts start (VPT, arXiv:2203.12119, released code)."""
    return math.sqrt(6 / (3 * patch_size**2 + width))


class InsertTokens(Intervention):
    """Insert `num_tokens` learnable tokens between the prefix tokens and the patches, before the wrapped block.

    They replace the first `num_replaced` of the tokens that earlier blocks left there. With `strip`, they are cut off
    again behind the block. Token values are `start` [num_tokens, width] or drawn from U(-v, v), v the `prompt_bound`.
    tokens: [batch, prefix + patches, width].
    """

    def __init__(
        self,
        base: nn.Module,
        num_tokens: int,
        width: int,
        patch_size: int,
        num_prefix: int,
        dropout: float,
        strip: bool,
        num_replaced: int = 0,
        start: Tensor | None = None,
    ) -> None:
        super().__init__(base)
        bound = prompt_bound(patch_size, width)
        drawn = torch.empty(1, num_tokens, width).uniform_(-bound, bound) if start is None else start.clone()[None]
        self.tokens = nn.Parameter(drawn)
        self.dropout = nn.Dropout(dropout)
        self.num_prefix, self.strip, self.num_replaced = num_prefix, strip, num_replaced

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        prompts = self.inserted(x.shape[0]).to(x.dtype)
        if prompts.shape[1]:
            kept = x[:, self.num_prefix + self.num_replaced :]
            x = torch.cat([x[:, : self.num_prefix], prompts, kept], dim=1)
        x = self.base(x, **arguments)
        return strip_tokens(x, self.num_prefix, prompts.shape[1]) if self.strip else x

    def inserted(self, batch: int) -> Tensor:
        """What enters the sequences now, [batch, at most num_tokens, width]; each image has its own mask."""
        inserted: Tensor = self.dropout(self.present().expand(batch, -1, -1))
        return inserted

    def present(self) -> Tensor:
        """The tokens that are inserted now, [1, at most num_tokens, width]."""
        return self.tokens


class StripTokens(Intervention):
    """Cut `num_tokens` tokens behind the prefix off the output of the wrapped block."""

    def __init__(self, base: nn.Module, num_tokens: int, num_prefix: int) -> None:
        super().__init__(base)
        self.num_tokens, self.num_prefix = num_tokens, num_prefix

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        return strip_tokens(self.base(x, **arguments), self.num_prefix, self.num_tokens)


def strip_tokens(x: Tensor, num_prefix: int, num_tokens: int) -> Tensor:
    """Sequence without the `num_tokens` tokens that follow the prefix."""
    return torch.cat([x[:, :num_prefix], x[:, num_prefix + num_tokens :]], dim=1)


class QueryTokens(Intervention):
    """A block with learnable tokens that only ask: queries of its attention, keys and values of nothing (VQT).

    The other tokens [batch, length, width] pass through as if the queries were not there. What the queries bring back
    goes with them from block to block and behind the last one stands behind them, [batch, length + blocks * num_tokens,
    width]. Values are drawn and dropped like those of `InsertTokens`.
    """

    def __init__(
        self, base: nn.Module, num_tokens: int, width: int, patch_size: int, last: bool, dropout: float
    ) -> None:
        super().__init__(base)
        require_plain(base.get_submodule("attn"))
        bound = prompt_bound(patch_size, width)
        self.queries = nn.Parameter(torch.empty(1, num_tokens, width).uniform_(-bound, bound))
        self.dropout = nn.Dropout(dropout)
        self.own = OwnAttention()
        self.last = last

    def forward(self, x: Tensor | tuple[Tensor, Any], **arguments: Any) -> Tensor | tuple[Tensor, Any]:
        tokens, carried = x if isinstance(x, tuple) else (x, ())
        # nothing before this block changes the tokens, so no gradient needs their path
        tokens = tokens.detach()
        queries = self.dropout(self.queries.expand(tokens.shape[0], -1, -1)).to(tokens.dtype)
        tokens, queries, _ = ask_block(self.base, self.own, arguments, tokens, queries)
        carried = (*carried, queries)
        return torch.cat([tokens, *carried], dim=1) if self.last else (tokens, carried)


class OwnAttention(nn.Module):
    """The attention half of a plain block for its own tokens, given these, the same behind the norm, and their heads.

    A module, so that it is one call of the frozen work (`train/frozen.py`).
    """

    def forward(self, block: Any, arguments: dict[str, Any], tokens: Tensor, seen: Tensor, heads: Heads) -> Tensor:
        half = halves(block, arguments)["attn"]
        return tokens + half.drop(half.scale(attend_self(block.attn, seen, heads, **arguments)))


def ask_block(
    block: Any, own: OwnAttention, arguments: dict[str, Any], tokens: Tensor, queries: Tensor
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """What a plain block makes of `tokens` and of `queries` that ask them and of which the tokens see nothing.

    Also what its attention and its MLP each added to the queries. All [batch, ..., width].
    """
    attn, mlp = halves(block, arguments).values()
    seen = attn.norm(tokens)
    heads = heads_of(block.attn, seen, arguments.get("rope"))
    tokens = own(block, arguments, tokens, seen, heads)
    asked = attn.drop(attn.scale(ask(block.attn, attn.norm(queries), heads)))
    queries = queries + asked
    tokens = tokens + mlp.added(tokens)
    added = mlp.added(queries)
    return tokens, queries + added, (asked, added)


class SparesCarried(Intervention):
    """A norm that leaves the last `num_carried` tokens of a sequence as they are; pooled features it norms whole."""

    def __init__(self, base: nn.Module, num_carried: int) -> None:
        super().__init__(base)
        self.num_carried = num_carried

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim < 3:
            out: Tensor = self.base(x)
            return out
        tokens, carried = x[:, : -self.num_carried], x[:, -self.num_carried :]
        return torch.cat([self.base(tokens), carried], dim=1)


class CarriedReadout(nn.Module):
    """Pooled features and what each block's tokens brought back, each scaled to length 1, side by side.

    tokens: [batch, length + blocks * num_tokens, width] -> [batch, (1 + blocks * num_tokens) * width].
    """

    no_maps = (
        "what its queries bring back belongs to no pixel and the tokens stay those of the frozen network: there are no "
        "maps to train; choose another method"
    )

    def __init__(self, readout: nn.Module, num_blocks: int, num_tokens: int) -> None:
        super().__init__()
        self.readout = readout
        self.num_blocks, self.num_carried = num_blocks, num_blocks * num_tokens

    def forward(self, tokens: Tensor) -> Tensor:
        pooled = self.readout(tokens[:, : -self.num_carried])
        carried = tokens[:, -self.num_carried :].reshape(tokens.shape[0], self.num_blocks, -1)
        return torch.cat([F.normalize(pooled, dim=-1), F.normalize(carried, dim=-1).flatten(1)], dim=1)
